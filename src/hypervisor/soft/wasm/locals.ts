/**
 * Gives a function's locals their indices. Temporary ones, which most are, share a few: each has its index from the first
 * place in the code where it is used to the last, or to the end of a loop that it is used in and set before.
 */
import type { ByteWriter } from "./bytes.js";
import type { ValType } from "./expr.js";
import type { BranchHint } from "./module.js";

export interface DeclaredLocal {
  readonly type: ValType;
  readonly isTemporary: boolean;
}

/** Places in the code. */
export interface Loop {
  readonly start: number;
  readonly end: number;
}

export interface LocalIndices {
  /** Types of the locals in the order of their indices, after the parameters, and how many of each. */
  readonly types: readonly (readonly [ValType, number])[];
  /** Index by the local's number; parameters come first in both. */
  readonly indices: Uint32Array;
}

/** `uses`: where locals are used, in order, as pairs of a place and a local's number. */
export function assignIndices(
  params: number,
  locals: readonly DeclaredLocal[],
  uses: readonly number[],
  loops: readonly Loop[],
): LocalIndices {
  const indices = new IndexPool();
  /** Within its type. */
  const places = new Uint32Array(params + locals.length);
  locals.forEach(({ type, isTemporary }, i) => {
    if (!isTemporary) places[params + i] = indices.add(type);
  });
  const { last, end } = lifetimes(params + locals.length, uses, loops);
  const seen = new Uint8Array(params + locals.length);
  /** Locals that live until a loop ends; the nearest is the last. */
  const later: { readonly end: number; readonly n: number }[] = [];
  for (let i = 0; i < uses.length; i += 2) {
    const at = uses[i];
    const n = uses[i + 1];
    if (n < params || !locals[n - params].isTemporary) continue;
    for (let ended = later.at(-1); ended !== undefined && ended.end < at; ended = later.at(-1)) {
      indices.release(locals[ended.n - params].type, places[ended.n]);
      later.pop();
    }
    const { type } = locals[n - params];
    if (seen[n] === 0) {
      seen[n] = 1;
      places[n] = indices.take(type);
      if (end[n] !== last[n])
        later.splice(later.findLastIndex((other) => other.end >= end[n]) + 1, 0, { end: end[n], n });
    }
    if (end[n] === at) indices.release(type, places[n]);
  }
  const types = [...indices.counts];
  const first = new Map<ValType, number>();
  let index = params;
  for (const [type, count] of types) {
    first.set(type, index);
    index += count;
  }
  return {
    types,
    indices: places.map((place, n) => (n < params ? n : (first.get(locals[n - params].type) ?? 0) + place)),
  };
}

/** Indices of each type that are free, and how many there are. */
class IndexPool {
  readonly counts = new Map<ValType, number>();
  readonly #free = new Map<ValType, number[]>();

  add(type: ValType): number {
    const count = this.counts.get(type) ?? 0;
    this.counts.set(type, count + 1);
    return count;
  }

  take(type: ValType): number {
    return this.#free.get(type)?.pop() ?? this.add(type);
  }

  release(type: ValType, index: number): void {
    const free = this.#free.get(type);
    if (free === undefined) this.#free.set(type, [index]);
    else free.push(index);
  }
}

/** Last use of each local, and where it may be another's. */
function lifetimes(count: number, uses: readonly number[], loops: readonly Loop[]) {
  const first = new Int32Array(count).fill(-1);
  const last = new Int32Array(count);
  for (let i = 0; i < uses.length; i += 2) {
    const n = uses[i + 1];
    if (first[n] < 0) first[n] = uses[i];
    last[n] = uses[i];
  }
  const end = last.slice();
  // An index takes no room yet: what comes next is at its place.
  for (let n = 0; n < count; n++)
    for (const loop of loops)
      if (loop.start >= first[n] && loop.start <= last[n] && loop.end > end[n]) end[n] = loop.end;
  return { last, end };
}

/** Appends code to `out`, with its locals' indices. The result: the hints with their places in `out`. */
export function fillIn(
  out: ByteWriter,
  source: ByteWriter,
  indices: Uint32Array,
  hints: readonly BranchHint[],
): BranchHint[] {
  const { locals } = source;
  const from = source.take();
  const moved: BranchHint[] = [];
  let copied = 0;
  for (let i = 0; i <= locals.length; i += 2) {
    const until = i < locals.length ? locals[i] : from.length;
    for (let h = hints[moved.length]; h !== undefined && h.place < until; h = hints[moved.length])
      moved.push({ place: out.length + h.place - copied, likely: h.likely });
    out.bytes(from.subarray(copied, until));
    copied = until;
    if (i < locals.length) out.leb(indices[locals[i + 1]]);
  }
  return moved;
}
