/** The work that is measured inside a guest: issue by issue the same commands, files and machine for every side. */

/** A shell script that is run in the bench's userland, with /tmp as its working directory and nothing on standard input. */
export interface Job {
  /** One word. */
  readonly name: string;
  /** What the table calls it. */
  readonly title: string;
  readonly script: string;
  /** Our time is to be at most this many times the peer's. */
  readonly reach: number;
}

/** Jobs that are run one after the other in one guest. */
export interface JobGroup {
  readonly name: string;
  readonly memoryMiB: number;
  /** vCPUs, one where left out. */
  readonly cpus?: number;
  /** "compilers": with gcc and make. */
  readonly userland?: "compilers";
  /** A job's time in percent of another's. */
  readonly derived?: readonly {
    readonly title: string;
    readonly of: string;
    readonly against: string;
    readonly reach: number;
  }[];
  /** Whether the jobs read TEXT, a file of 64 MiB. */
  readonly text: boolean;
  readonly jobs: readonly Job[];
}

/** Where files of the bench are in a guest, and in the host's view of the same tree. */
export const BENCH_DIRECTORY = "/nlkt";
export const TEXT = `${BENCH_DIRECTORY}/text`;
/** Programs of `bench/programs`, compiled where they are C. */
const program = (name: string) => `${BENCH_DIRECTORY}/${name}`;

export const GROUPS: readonly JobGroup[] = [
  {
    name: "integers",
    memoryMiB: 1024,
    text: true,
    jobs: [
      { name: "sha256sum", title: "sha256sum of 64 MB", script: `sha256sum <${TEXT}`, reach: 1 },
      { name: "gzip", title: "gzip -9 of 64 MB", script: `gzip -9n <${TEXT}`, reach: 1 },
      { name: "xz", title: "xz -1 of 64 MB", script: `xz -1 -T1 <${TEXT}`, reach: 1 },
      { name: "sort", title: "sort of 64 MB", script: `sort --parallel=1 -S 256M ${TEXT}`, reach: 1 },
    ],
  },
  {
    name: "interpreters",
    memoryMiB: 512,
    text: false,
    jobs: [
      {
        name: "python3",
        title: "python3 loops",
        script: `python3.11 -IS ${program("loops.py")}`,
        reach: 1.2,
      },
      { name: "perl", title: "perl loops", script: `perl ${program("loops.pl")}`, reach: 1.2 },
      {
        name: "awk",
        title: "busybox awk",
        script: `${program("busybox")} awk -f ${program("loops.awk")}`,
        reach: 1.2,
      },
      { name: "forks", title: "shell script, 2,000 forks", script: `sh ${program("forks.sh")}`, reach: 1.2 },
    ],
  },
  {
    name: "floating point",
    memoryMiB: 512,
    text: false,
    jobs: [
      { name: "matmul", title: "double matrix multiply", script: program("matmul"), reach: 0.5 },
      { name: "fft", title: "double FFT", script: program("fft"), reach: 0.5 },
      { name: "nbody", title: "double n-body", script: program("nbody"), reach: 0.5 },
    ],
  },
  {
    name: "memory",
    memoryMiB: 1024,
    text: false,
    jobs: [
      { name: "copy", title: "10 copies of 256 MB", script: program("copy"), reach: 1.2 },
      { name: "chase", title: "pointer chase over 64 MB", script: program("chase"), reach: 1.2 },
    ],
  },
];

const MARK = "@bench";

/**
 * The script that runs `jobs`, for bash. It takes the time with the guest's own clock, so that neither the boot nor the
 * console is in it; a program may have said itself how long the part of it took that counts (`programs/measure.h`).
 */
export function runScript(jobs: readonly Job[]): string {
  const lines = jobs.map(({ name }) => `job ${name}`);
  return `export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C MEASURED=/tmp/measured PYTHONHASHSEED=0
cd /tmp
job() {
  rm -f measured
  echo "${MARK} begin $1"
  local from=$EPOCHREALTIME
  sh ${BENCH_DIRECTORY}/$1.job </dev/null >out 2>err
  local status=$? to=$EPOCHREALTIME
  local wall=$((\${to/./} - \${from/./}))
  local counted=$wall
  [ -e measured ] && read -r counted <measured
  echo "${MARK} end $1 $status $wall $counted"
  [ $status = 0 ] || head -c 500 err
  set -- "$1" $(sha256sum <out)
  echo "${MARK} sum $1 $2"
}
${lines.join("\n")}
echo "${MARK} done"
`;
}

export interface JobSample {
  readonly name: string;
  readonly seconds: number;
  /** SHA-256 of what the job wrote to its standard output. */
  readonly sum: string;
}

/** How far the guest's clock may be from the host's: a part of the time, and the console's delay. */
const CLOCK_TOLERANCE = 0.03;
const CONSOLE_SECONDS = 0.25;

/** Reads what `runScript` prints, line by line as it comes. */
export class JobReader {
  readonly samples: JobSample[] = [];
  done = false;
  #begun = 0;
  #last: { name: string; seconds: number } | undefined;

  /** Throws where a job failed, or where the guest's clock is wrong. */
  line(text: string): void {
    const words = text.trim().split(" ");
    if (words[0] !== MARK) return;
    const [, what, name, ...values] = words;
    if (what === "begin") this.#begun = performance.now();
    else if (what === "end") {
      const [status, wall, counted] = values.map(Number);
      if (status !== 0) throw new Error(`${name} ended with status ${status}`);
      const host = (performance.now() - this.#begun) / 1000;
      const guest = wall / 1e6;
      if (Math.abs(host - guest) > CONSOLE_SECONDS + host * CLOCK_TOLERANCE) {
        throw new Error(
          `${name} took ${guest.toFixed(2)} s by the guest's clock, ${host.toFixed(2)} s by ours`,
        );
      }
      this.#last = { name, seconds: counted / 1e6 };
    } else if (what === "sum" && this.#last?.name === name) {
      this.samples.push({ ...this.#last, sum: values[0] });
    } else if (what === "done") this.done = true;
  }
}
