/** The fuzzer: cases of every form in turn, blocks and small programs, on an oracle (the host's CPU, or KVM) and on the software CPU. */
import { BlockGenerator } from "./blocks.js";
import { Campaign, type Failure, type Trial } from "./campaign.js";
import { entryRip, type Facilities, type OracleCpu, type Outcome, Random } from "./cpu-case.js";
import type { Form } from "./forms.js";
import { generate } from "./generator.js";
import { NativeCpu } from "./native-cpu.js";
import { ProgramGenerator } from "./programs.js";
import { SoftCpu, type Tier } from "./soft-cpu.js";
import { BLOCK_ROWS, comparedForms } from "./tables.js";
import { undefinedAfter, undefinedAtFault } from "./undefined.js";

const DEBUG = 1;

export interface FuzzerOptions {
  readonly oracle: OracleCpu & { readonly facilities: Facilities };
  /** No code but 64-bit code. */
  readonly only64?: boolean;
  /** Forms that are left out. */
  readonly excluded?: (form: Form) => boolean;
  /** Whether what the oracle says counts. */
  readonly comparable?: (outcome: Outcome) => boolean;
}

export class Fuzzer {
  readonly campaign: Campaign;
  readonly random: Random;
  readonly forms: readonly Form[];
  readonly #lowMemory: boolean;
  readonly #blocks: BlockGenerator;
  readonly #programs: ProgramGenerator;
  readonly #makeCampaign: (tier?: Tier) => Campaign;
  readonly #campaigns = new Map<Tier, Campaign>();

  constructor(
    seed: number,
    filter?: RegExp,
    { oracle, only64 = false, excluded, comparable }: FuzzerOptions = { oracle: new NativeCpu() },
  ) {
    const { facilities } = oracle;
    this.random = new Random(seed);
    this.#lowMemory = facilities.lowMemory;
    this.#makeCampaign = (tier) => new Campaign(oracle, new SoftCpu(facilities, tier), comparable);
    this.campaign = this.#makeCampaign();
    const matches = (form: Form) =>
      (filter === undefined || filter.test(form.row.mnemonic)) &&
      (form.bitness !== 16 || facilities.code16) &&
      (form.bitness === 64 || !only64) &&
      excluded?.(form) !== true;
    this.forms = comparedForms().filter(matches);
    this.#blocks = new BlockGenerator(comparedForms(BLOCK_ROWS).filter(matches), this.random, only64);
    this.#programs = new ProgramGenerator(comparedForms(BLOCK_ROWS).filter(matches), this.random, only64);
  }

  /** Whether any of the forms goes into blocks. */
  get hasBlocks(): boolean {
    return this.#blocks.usable;
  }

  /** `count` cases of one form; gives at most `limit` failures. */
  form(form: Form, count: number, limit = 1): Failure[] {
    const trials: Trial[] = [];
    for (let i = 0; i < count; i++) {
      const test = generate(form, this.random, this.#lowMemory);
      // A single-step trap follows the instruction, and so does a fault elsewhere: in fetching what comes next.
      const done = (o: Outcome) => o.vector === DEBUG || o.rip !== BigInt(entryRip(test));
      const masked = (o: Outcome) => (done(o) ? undefinedAfter(form, test) : undefinedAtFault(form));
      trials.push({ test, masked });
    }
    return this.campaign.run(trials, limit);
  }

  /** `count` random blocks; on `tier`, or on the one that all else runs on. */
  blocks(count: number, limit = 1, tier?: Tier): Failure[] {
    return this.#onTier(tier).run(
      Array.from({ length: count }, () => this.#blocks.next()),
      limit,
    );
  }

  /** `count` random programs, on `tier`. */
  programs(count: number, tier: Tier, limit = 1): Failure[] {
    return this.#onTier(tier).run(
      Array.from({ length: count }, () => this.#programs.next()),
      limit,
    );
  }

  #onTier(tier?: Tier): Campaign {
    if (tier === undefined) return this.campaign;
    let campaign = this.#campaigns.get(tier);
    if (campaign === undefined) {
      campaign = this.#makeCampaign(tier);
      this.#campaigns.set(tier, campaign);
    }
    return campaign;
  }
}
