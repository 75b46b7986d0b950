/**
 * The check of a qcow2 image: refcounts against references, and the COPIED flags against refcounts. What is wrong is
 * a leak (a cluster counted more often than used: wasted space) or a corruption.
 */
import { DiskError } from "../disk.js";
import type { HostFile } from "../host-file.js";
import { HeaderOffset, Incompatible, type Qcow2Header, readHeader } from "./header.js";
import { COPIED } from "./layout.js";
import { Refcounts } from "./refcounts.js";
import { countReferences, type ReferenceCounts } from "./references.js";

/** What is repaired: nothing, clusters counted too often, or refcounts and flags altogether. */
export type Repair = "none" | "leaks" | "all";

export interface CheckResult {
  readonly corruptions: number;
  readonly leaks: number;
  readonly corruptionsFixed: number;
  readonly leaksFixed: number;
  /** The first of what was found, a line each. */
  readonly messages: readonly string[];
  readonly totalClusters: number;
  readonly allocatedClusters: number;
  readonly compressedClusters: number;
  readonly fragmentedClusters: number;
  /** Where the last cluster in use ends. */
  readonly imageEnd: number;
}

const MAX_MESSAGES = 100;
/** Clusters with wrong refcounts that a repair keeps in mind. */
const MAX_REPAIRED = 2 ** 24;

/** `file` is writable where something is to be repaired. Throws `DiskError` for what cannot be checked. */
export function checkQcow2(file: HostFile, repair: Repair): CheckResult {
  const header = readHeader(file);
  const check = new Check(file, header, repair);
  return check.run();
}

/** What a run that was killed has left of lazy refcounts is put in order. Throws `DiskError`. */
export async function repairDirty(file: HostFile): Promise<void> {
  const { corruptions, corruptionsFixed } = checkQcow2(file, "all");
  if (corruptions > corruptionsFixed) {
    throw new DiskError(`${file.path}: the image is damaged: nlkt image check shows how`);
  }
}

class Check {
  readonly #messages: string[] = [];
  #corruptions = 0;
  #corruptionsFixed = 0;
  #leaks = 0;
  #leaksFixed = 0;
  readonly #clusterSize: number;
  readonly #refcounts: Refcounts;
  #counts: ReferenceCounts | undefined;

  constructor(
    private readonly file: HostFile,
    private readonly header: Qcow2Header,
    private readonly repair: Repair,
  ) {
    this.#clusterSize = 2 ** header.clusterBits;
    this.#refcounts = new Refcounts(file, header, (cluster) => (this.#counts?.get(cluster) ?? 0) > 0);
  }

  #say(message: string): void {
    if (this.#messages.length < MAX_MESSAGES) this.#messages.push(message);
  }

  #corruption(message: string): void {
    this.#corruptions++;
    this.#say(`error: ${message}`);
  }

  run(): CheckResult {
    const { file, header } = this;
    const blocks = this.#checkBlocks();
    let wrongFlags = 0;
    const walk = countReferences(file, header, {
      corruption: (message) => this.#corruption(message),
      active: ({ what, cluster, high }) => {
        const single = this.#refcounts.get(cluster) === 1;
        if (single === ((high & COPIED) !== 0)) return;
        wrongFlags++;
        this.#corruption(`the flag COPIED of an ${what} entry for cluster ${cluster} is wrong`);
      },
    });
    const { counts } = walk;
    this.#counts = counts;
    for (const cluster of blocks) counts.add(cluster);
    for (const cluster of blocks) {
      if (counts.get(cluster) > 1) this.#corruption(`the refcount block in cluster ${cluster} is used twice`);
    }
    const wrong = this.#compare(counts);
    if (this.repair !== "none") this.#fix(wrong, wrongFlags);
    return {
      corruptions: this.#corruptions,
      leaks: this.#leaks,
      corruptionsFixed: this.#corruptionsFixed,
      leaksFixed: this.#leaksFixed,
      messages: this.#messages,
      totalClusters: Math.ceil(header.size / this.#clusterSize),
      allocatedClusters: walk.allocatedClusters,
      compressedClusters: walk.compressedClusters,
      fragmentedClusters: walk.fragmentedClusters,
      imageEnd: counts.end * this.#clusterSize,
    };
  }

  /** The clusters of refcount blocks. Those that cannot be are dropped: what they counted counts as 0. */
  #checkBlocks(): number[] {
    const blocks: number[] = [];
    for (let index = 0; index < this.#refcounts.tableEntries; index++) {
      try {
        const offset = this.#refcounts.blockOffset(index);
        if (offset !== 0) blocks.push(offset / this.#clusterSize);
      } catch (error) {
        this.#corruption((error as Error).message.replace(/^.*broken qcow2 image: /, ""));
        this.#refcounts.dropBlock(index);
        if (this.repair === "all") this.#corruptionsFixed++;
      }
    }
    return blocks;
  }

  /** Clusters whose refcount is not what it should be. */
  #compare(counts: ReferenceCounts): number[] {
    const wrong: number[] = [];
    const compare = (cluster: number) => {
      const refcount = this.#refcounts.get(cluster);
      const references = counts.get(cluster);
      if (refcount === references) return;
      if (this.repair !== "none") {
        if (wrong.length >= MAX_REPAIRED)
          throw new DiskError(`${this.file.path}: too much is wrong to be repaired`);
        wrong.push(cluster);
      }
      const text = `cluster ${cluster} has a refcount of ${refcount} and ${references} references`;
      if (refcount < references) this.#corruption(text);
      else {
        this.#leaks++;
        this.#say(`leak: ${text}`);
      }
    };
    // All that is counted in the file …
    this.#refcounts.forEachCounted(compare);
    // … and all that should be, and is not.
    for (const cluster of counts.clusters()) if (this.#refcounts.get(cluster) === 0) compare(cluster);
    return wrong;
  }

  #fix(wrong: readonly number[], wrongFlags: number): void {
    const { file } = this;
    const refcounts = this.#refcounts;
    const counts = this.#counts!;
    if (this.repair === "all") {
      for (const cluster of wrong) {
        if (refcounts.get(cluster) >= counts.get(cluster)) continue;
        refcounts.set(cluster, counts.get(cluster));
        this.#corruptionsFixed++;
      }
      refcounts.writeBlocks();
      file.sync();
      if (refcounts.writeTable()) file.sync();
      this.#fixFlags(wrongFlags);
    }
    for (const cluster of wrong) {
      if (refcounts.get(cluster) <= counts.get(cluster) || refcounts.holds(cluster)) continue;
      refcounts.set(cluster, counts.get(cluster));
      this.#leaksFixed++;
    }
    refcounts.writeBlocks();
    file.sync();
    if (this.repair === "all" && this.#corruptionsFixed >= this.#corruptions) this.#clearBits();
  }

  /** All flags by the refcounts as they are now: those that were right may have become wrong, and the other way round. */
  #fixFlags(reported: number): void {
    this.#corruptionsFixed += reported;
    countReferences(this.file, this.header, {
      corruption: () => {},
      active: ({ at, high, cluster }) => {
        const single = this.#counts!.get(cluster) === 1;
        if (single === ((high & COPIED) !== 0)) return;
        const half = new DataView(new ArrayBuffer(4));
        half.setUint32(0, (high ^ COPIED) >>> 0);
        this.file.write(at, new Uint8Array(half.buffer));
      },
    });
    this.file.sync();
  }

  /** Neither dirty nor corrupt any more. */
  #clearBits(): void {
    if (this.header.version < 3) return;
    const at = HeaderOffset.INCOMPATIBLE + 4;
    const word = new Uint8Array(4);
    this.file.read(at, word);
    const view = new DataView(word.buffer);
    view.setUint32(0, (view.getUint32(0) & ~(Incompatible.DIRTY | Incompatible.CORRUPT)) >>> 0);
    this.file.write(at, word);
    this.file.sync();
  }
}
