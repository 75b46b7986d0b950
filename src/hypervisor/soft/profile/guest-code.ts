/** What the sampled functions of guest code stand for. */
import type { ProfileRow } from "../../seam.js";
import type { SampledFunction } from "./sampler.js";

/** Functions of the cold tier's module that are no instruction's (cold/runtime.ts, mmu/walk.ts), by what they are for. */
const RUNTIME: readonly (readonly [what: string, functions: RegExp])[] = [
  ["page walks", /^(walk|walk32|physEntry|fillDtlb)$/],
  ["jumps and look-ups of code", /^(lookup|jump|arrive|branchSlow|hotBranch|enter|enterRecord)$/],
  ["accesses that miss the TLB or cross pages", /^(slow\w+|translate|copy(From|To)Physical)$/],
  ["TLB flushes", /^flush/],
];

export interface GuestCode {
  readonly tiers: ProfileRow[];
  /** Instructions of the cold tier. */
  readonly cold: ProfileRow[];
  /** Functions in JavaScript that guest code called, and all others of this thread. */
  readonly script: ProfileRow[];
}

const WASM = "wasm://";
const COLD = "cold tier";

export function guestCode(functions: readonly SampledFunction[]): GuestCode {
  // The one module that knows all its functions' names; a module of regions has none.
  const engine = functions.find(
    ({ name, url }) => url.startsWith(WASM) && !name.startsWith("wasm-function"),
  )?.url;
  const tiers = new Map<string, number>();
  const cold = new Map<string, number>();
  const script = new Map<string, number>();
  const add = (map: Map<string, number>, name: string, seconds: number) =>
    map.set(name, (map.get(name) ?? 0) + seconds);
  for (const { name, url, seconds } of functions) {
    if (!url.startsWith(WASM)) add(script, scriptName(name, url), seconds);
    else if (url !== engine) add(tiers, "hot tier", seconds);
    else if (name.includes(".")) {
      add(tiers, COLD, seconds);
      add(cold, name, seconds);
    } else add(tiers, runtimeName(name), seconds);
  }
  return { tiers: rows(tiers), cold: rows(cold), script: rows(script) };
}

/** Handlers are named MNEMONIC.SIZE.OPERANDS; everything else in the module has no dot. */
function runtimeName(name: string): string {
  return RUNTIME.find(([, functions]) => functions.test(name))?.[0] ?? COLD;
}

function scriptName(name: string, url: string): string {
  if (url === "") return name || "(anonymous)";
  return `${name || "(anonymous)"} ${url.slice(url.lastIndexOf("/") + 1)}`;
}

function rows(map: ReadonlyMap<string, number>): ProfileRow[] {
  return [...map].map(([name, seconds]) => ({ name, seconds })).sort((a, b) => b.seconds - a.seconds);
}
