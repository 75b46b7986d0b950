/** The fuzzer: cases of every form in turn, and blocks, on the host's CPU and on ours. */
import { BlockGenerator } from "./blocks.js";
import { Campaign, type Failure, type Trial } from "./campaign.js";
import { entryRip, type Outcome, Random } from "./cpu-case.js";
import type { Form } from "./forms.js";
import { generate } from "./generator.js";
import { NativeCpu } from "./native-cpu.js";
import { SoftCpu } from "./soft-cpu.js";
import { BLOCK_ROWS, comparedForms } from "./tables.js";
import { undefinedAfter, undefinedAtFault } from "./undefined.js";

const DEBUG = 1;

export class Fuzzer {
  readonly campaign: Campaign;
  readonly random: Random;
  readonly forms: readonly Form[];
  readonly #lowMemory: boolean;
  readonly #blocks: BlockGenerator;

  constructor(seed: number, filter?: RegExp) {
    this.random = new Random(seed);
    const native = new NativeCpu();
    this.#lowMemory = native.facilities.lowMemory;
    this.campaign = new Campaign(native, new SoftCpu(native.facilities));
    const matches = (form: Form) =>
      (filter === undefined || filter.test(form.row.mnemonic)) &&
      (form.bitness !== 16 || native.facilities.code16);
    this.forms = comparedForms().filter(matches);
    this.#blocks = new BlockGenerator(comparedForms(BLOCK_ROWS).filter(matches), this.random);
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

  /** `count` random blocks. */
  blocks(count: number, limit = 1): Failure[] {
    return this.campaign.run(
      Array.from({ length: count }, () => this.#blocks.next()),
      limit,
    );
  }
}
