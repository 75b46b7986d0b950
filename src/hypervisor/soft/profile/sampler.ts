/**
 * Where this thread's time goes, by V8's own CPU profiler: it sees the engine's wasm functions and the regions of the hot tier,
 * and costs nothing in the code that it watches.
 */
import { type Profiler, Session } from "node:inspector";

/** Microseconds between two samples. */
const INTERVAL = 1000;

/** A function and the time in it, without what it calls. */
export interface SampledFunction {
  readonly name: string;
  readonly url: string;
  readonly seconds: number;
}

export class Sampler {
  readonly #session = new Session();
  /** By name and URL. */
  readonly #times = new Map<string, { name: string; url: string; seconds: number }>();

  constructor() {
    this.#session.connect();
    this.#session.post("Profiler.enable");
    this.#session.post("Profiler.setSamplingInterval", { interval: INTERVAL });
    this.#session.post("Profiler.start");
  }

  /** Take what was sampled and go on: V8 keeps every sample, which a long run has not the memory for. */
  collect(): void {
    this.#take();
    this.#session.post("Profiler.start");
  }

  /** The end: the functions, those with most time first. */
  finish(): SampledFunction[] {
    this.#take();
    this.#session.disconnect();
    return [...this.#times.values()].sort((a, b) => b.seconds - a.seconds);
  }

  #take(): void {
    let profile: Profiler.Profile | undefined;
    // A session with its own thread answers before `post` returns.
    this.#session.post("Profiler.stop", (error, result) => {
      if (error === null) profile = result.profile;
    });
    if (profile === undefined) return;
    const { nodes, samples = [], timeDeltas = [] } = profile;
    const seconds = new Map<number, number>();
    // A sample stands for the time until the next one.
    samples.forEach((id, i) => {
      seconds.set(id, (seconds.get(id) ?? 0) + (timeDeltas[i + 1] ?? 0) / 1e6);
    });
    for (const { id, callFrame } of nodes) {
      const time = seconds.get(id);
      if (time === undefined) continue;
      const { functionName: name, url } = callFrame;
      const key = `${name}\n${url}`;
      const known = this.#times.get(key);
      if (known === undefined) this.#times.set(key, { name, url, seconds: time });
      else known.seconds += time;
    }
  }
}
