/** Programs to run in the guest and on the host, and what they printed there. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** A shell script that runs in a userland, in an empty directory of its own, with nothing on standard input. */
export interface Job {
  readonly name: string;
  /** For /bin/sh. The files are in /nlkt. */
  readonly script: string;
  /** Files of `programs/` that the script uses. */
  readonly programs?: readonly string[];
  /** Other files for /nlkt. */
  readonly files?: Readonly<Record<string, Uint8Array>>;
}

export interface JobResult {
  /** Standard output and standard error. */
  readonly output: string;
  readonly status: number;
  readonly seconds: number;
}

/** Thrown where the jobs' output is not whole: the machine or the host ended before. */
export class JobsError extends Error {}

/** This file runs as dist/test/userland/job.js. */
export const PROGRAMS = new URL("../../../test/userland/programs/", import.meta.url);

/** Begins the lines that separate the jobs' outputs. */
const MARK = "@nlkt-job";

/** In the guest and on the host alike, so that outputs can be equal. */
const ENVIRONMENT: Readonly<Record<string, string>> = {
  PATH: "/usr/sbin:/usr/bin:/sbin:/bin",
  HOME: "/root",
  LC_ALL: "C.UTF-8",
  TZ: "UTC",
  PYTHONHASHSEED: "0",
  PYTHONDONTWRITEBYTECODE: "1",
};

/** The files that `jobs` need in /nlkt, with the script that runs them all: `run`. */
export function jobFiles(jobs: readonly Job[]): Map<string, Uint8Array> {
  const files = new Map<string, Uint8Array>();
  const exports = Object.entries(ENVIRONMENT).map(([name, value]) => `export ${name}=${value}`);
  const lines = [...exports];
  for (const { name, script, programs = [], files: more = {} } of jobs) {
    files.set(`${name}.job`, Buffer.from(script.endsWith("\n") ? script : `${script}\n`));
    for (const program of programs)
      files.set(program, readFileSync(fileURLToPath(new URL(program, PROGRAMS))));
    for (const [file, bytes] of Object.entries(more)) files.set(file, bytes);
    lines.push(
      `mkdir -p /tmp/${name} && cd /tmp/${name}`,
      `echo "${MARK} begin ${name}"`,
      `sh /nlkt/${name}.job </dev/null 2>&1`,
      // A job's last line may lack its line feed.
      `status=$?; echo; echo "${MARK} end ${name} $status"`,
      `cd /; rm -rf /tmp/${name}`,
    );
  }
  lines.push(`echo "${MARK} done"`);
  files.set("run", Buffer.from(`${lines.join("\n")}\n`));
  return files;
}

/** Takes the outputs apart as they come. */
export class JobReader {
  readonly results = new Map<string, JobResult>();
  done = false;
  #rest = "";
  #name: string | undefined;
  #lines: string[] = [];
  #started = 0;

  /** `onResult` is told of each job when it ends. */
  constructor(readonly onResult: (name: string, result: JobResult) => void = () => {}) {}

  feed(text: string): void {
    this.#rest += text;
    for (;;) {
      const end = this.#rest.indexOf("\n");
      if (end < 0) return;
      this.#line(this.#rest.slice(0, end));
      this.#rest = this.#rest.slice(end + 1);
    }
  }

  #line(line: string): void {
    const words = line.startsWith(`${MARK} `) ? line.split(" ") : [];
    if (words[1] === "begin") {
      this.#name = words[2];
      this.#lines = [];
      this.#started = performance.now();
    } else if (words[1] === "end" && this.#name !== undefined) {
      const result = {
        output: this.#lines.slice(0, -1).join("\n") + (this.#lines.at(-1) === "" ? "\n" : ""),
        status: Number(words[3]),
        seconds: (performance.now() - this.#started) / 1000,
      };
      this.results.set(this.#name, result);
      this.onResult(this.#name, result);
      this.#name = undefined;
    } else if (words[1] === "done") this.done = true;
    else this.#lines.push(line);
  }

  /** The job that runs, and what it has printed so far. */
  get current(): string {
    return this.#name === undefined
      ? this.#lines.join("\n") + this.#rest
      : `in job ${this.#name}:\n${[...this.#lines, this.#rest].join("\n")}`;
  }
}
