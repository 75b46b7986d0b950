/** The text that sha256sum, gzip, xz and sort work on: lines as of a server's log, the same in every run. */

export const BENCH_TEXT_BYTES = 64 << 20;

const WORDS = (
  "accepted connection from closed session for user opened request served in bytes sent received timeout " +
  "retry after error warning cache miss hit queue worker started stopped job finished failed reading writing " +
  "file table index commit rollback client server upstream response status method path agent referer token"
).split(" ");
const PROGRAMS = ["sshd", "nginx", "cron", "postgres", "kernel", "systemd", "dhclient", "postfix/smtpd"];
const HOSTS = ["alpha", "beta", "gamma", "delta"];
/** As in a real log, most of a line has been there before. */
const MESSAGES = 200;
/** 14 November 2023, 22:13:20. */
const FIRST_SECOND = 1.7e9;

export function benchText(): Uint8Array {
  // xorshift32 (G. Marsaglia, "Xorshift RNGs", 2003)
  let state = 2463534242;
  const random = (below: number) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
  const pick = (list: readonly string[]) => list[random(list.length)];
  const messages = Array.from({ length: MESSAGES }, () =>
    Array.from({ length: 8 + random(12) }, () => pick(WORDS)).join(" "),
  );
  const text = Buffer.alloc(BENCH_TEXT_BYTES);
  let second = FIRST_SECOND;
  for (let at = 0; at < text.length; second += random(3)) {
    const time = new Date(second * 1000).toISOString().slice(0, 19);
    const address = `10.0.${random(4)}.${random(256)}`;
    const process = `${pick(PROGRAMS)}[${300 + random(40)}]`;
    const line = `${address} ${time} ${pick(HOSTS)} ${process}: ${pick(messages)} ${random(1 << 14)}\n`;
    at += text.write(line, at, "latin1");
  }
  text[text.length - 1] = 10;
  return text;
}
