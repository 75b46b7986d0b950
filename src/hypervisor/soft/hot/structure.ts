/**
 * Turns a control-flow graph into WebAssembly's nested blocks and loops, by the dominator tree (N. Ramsey, "Beyond Relooper",
 * ICFP 2022). Edges that make the graph irreducible are given back, to be left through.
 */
import type { FunctionBuilder, Label } from "../wasm/module.js";

export interface Graph {
  readonly entry: number;
  /** Successors of a node, those in the graph only. */
  successors(node: number): readonly number[];
}

export interface Flow {
  /** Nodes in reverse postorder. */
  readonly order: readonly number[];
  readonly isLoopHeader: (node: number) => boolean;
  /** Whether the edge can be emitted as a jump within the structure. */
  readonly canBranch: (from: number, to: number) => boolean;
  readonly isBackward: (from: number, to: number) => boolean;
  /** Nodes that `node` dominates directly and that more than one forward edge reaches, highest number first. */
  readonly mergesBelow: (node: number) => readonly number[];
  readonly isMerge: (node: number) => boolean;
}

export function analyse(graph: Graph): Flow {
  const order = reversePostorder(graph);
  const number = new Map(order.map((node, i) => [node, i]));
  const at = (node: number) => number.get(node)!;
  const predecessors = new Map<number, number[]>(order.map((node) => [node, []]));
  for (const node of order) for (const next of graph.successors(node)) predecessors.get(next)!.push(node);
  const dominator = dominators(order, at, predecessors);
  const dominates = (a: number, b: number): boolean => {
    let node = b;
    while (at(node) > at(a)) node = dominator.get(node)!;
    return node === a;
  };
  const isBackward = (from: number, to: number) => at(to) <= at(from);
  const canBranch = (from: number, to: number) => !isBackward(from, to) || dominates(to, from);
  const headers = new Set<number>();
  const merges = new Set<number>();
  for (const node of order) {
    let forward = 0;
    for (const from of predecessors.get(node)!) {
      if (!isBackward(from, node)) forward++;
      else if (dominates(node, from)) headers.add(node);
    }
    if (forward > 1) merges.add(node);
  }
  const below = new Map<number, number[]>();
  for (const node of order) {
    if (!merges.has(node)) continue;
    const parent = dominator.get(node)!;
    below.set(parent, [node, ...(below.get(parent) ?? [])]);
  }
  return {
    order,
    isLoopHeader: (node) => headers.has(node),
    canBranch,
    isBackward,
    mergesBelow: (node) => below.get(node) ?? [],
    isMerge: (node) => merges.has(node),
  };
}

function reversePostorder({ entry, successors }: Graph): number[] {
  const order: number[] = [];
  const seen = new Set<number>([entry]);
  const stack: { node: number; next: number }[] = [{ node: entry, next: 0 }];
  while (stack.length > 0) {
    const top = stack[stack.length - 1];
    const following = successors(top.node);
    if (top.next < following.length) {
      const node = following[top.next++];
      if (!seen.has(node)) {
        seen.add(node);
        stack.push({ node, next: 0 });
      }
    } else {
      order.push(top.node);
      stack.pop();
    }
  }
  return order.reverse();
}

/** Immediate dominators (Cooper, Harvey, Kennedy, "A Simple, Fast Dominance Algorithm"). */
function dominators(
  order: readonly number[],
  at: (node: number) => number,
  predecessors: ReadonlyMap<number, readonly number[]>,
): Map<number, number> {
  const result = new Map<number, number>([[order[0], order[0]]]);
  const meet = (a: number, b: number): number => {
    while (a !== b) {
      while (at(a) > at(b)) a = result.get(a)!;
      while (at(b) > at(a)) b = result.get(b)!;
    }
    return a;
  };
  for (let changed = true; changed; ) {
    changed = false;
    for (const node of order.slice(1)) {
      let best: number | undefined;
      for (const from of predecessors.get(node)!) {
        if (result.has(from)) best = best === undefined ? from : meet(best, from);
      }
      if (best !== undefined && result.get(node) !== best) {
        result.set(node, best);
        changed = true;
      }
    }
  }
  return result;
}

/** Emits the graph; `node(n, goto)` emits one node and ends every path by `goto(successor)` or by leaving. */
export function emitStructure(
  f: FunctionBuilder,
  graph: Graph,
  flow: Flow,
  node: (n: number, goto: (to: number) => void) => void,
): void {
  const labels = new Map<number, Label>();
  const tree = (n: number): void => {
    const merges = flow.mergesBelow(n);
    const body = () => within(n, merges);
    if (flow.isLoopHeader(n)) {
      f.loop((start) => {
        labels.set(n, start);
        body();
      });
    } else body();
  };
  const within = (n: number, merges: readonly number[]): void => {
    if (merges.length > 0) {
      f.block((end) => {
        labels.set(merges[0], end);
        within(n, merges.slice(1));
      });
      tree(merges[0]);
      return;
    }
    node(n, (to) => {
      if (flow.isBackward(n, to) || flow.isMerge(to)) f.br(labels.get(to)!);
      else tree(to);
    });
  };
  tree(graph.entry);
}
