/**
 * Access rights of paging, exhaustively: every combination of rights, reserved bits and control bits, compared with a
 * model of SDM vol. 3A, 4.6 and 4.7, for each paging mode and page size; and the accessed and dirty flags (4.8).
 */
import assert from "node:assert/strict";
import { after } from "node:test";
import { ExitReason, type Regs } from "../../src/hypervisor/seam.js";
import { gpa } from "../../src/memory/guest-memory.js";
import { DONE_PORT, FAULT_PORT } from "./support/asm.js";
import { At, Environment, HANDLER_BYTES, isLong, type Mode, Pte, Sel } from "./support/environment.js";
import { assembler, Flag, type GuestImage, runGuest } from "./support/machine.js";
import { type Access, type PagingControl, pageFault, type Step } from "./support/paging-model.js";
import { guestProvider, test } from "./support/provider.js";

const provider = guestProvider();
after(() => provider.close());

const PF = 14;
/** The page under test: at 1 GiB, with tables of its own. */
const LINEAR = 0x4000_0000;
const OWN = { PD: At.TABLES, PT: At.TABLES + 0x1000 } as const;
const USER_CODE = At.CODE + 0x1000;
const FRAME = At.DATA;
const MAX_PHYSICAL = 40n;
const { P, W, U, A, D, PS, NX } = Pte;
const RESERVED = 1n << 51n;

interface Layout {
  readonly name: string;
  readonly mode: Mode;
  /** Physical address of the page. */
  readonly physical: number;
  /** Entries of the walk, top first, as [address, entry without rights, reserved bits]. */
  readonly path: readonly { address: number; base: bigint; reserved: bigint; plain?: boolean }[];
}

const bits = (high: bigint, low: bigint) => ((1n << (high + 1n)) - 1n) & ~((1n << low) - 1n);
const LONG_RESERVED = bits(51n, MAX_PHYSICAL);
const PAE_RESERVED = bits(62n, MAX_PHYSICAL);

const longTop = [{ address: At.PML4, base: BigInt(At.PDPT), reserved: LONG_RESERVED | PS }] as const;
const LAYOUTS: readonly Layout[] = [
  {
    name: "IA-32e, 4 KiB",
    mode: "long",
    physical: At.DATA,
    path: [
      ...longTop,
      { address: At.PDPT + 8, base: BigInt(OWN.PD), reserved: LONG_RESERVED },
      { address: OWN.PD, base: BigInt(OWN.PT), reserved: LONG_RESERVED },
      { address: OWN.PT, base: BigInt(At.DATA), reserved: LONG_RESERVED },
    ],
  },
  {
    name: "IA-32e, 2 MiB",
    mode: "long",
    physical: 0x400000,
    path: [
      ...longTop,
      { address: At.PDPT + 8, base: BigInt(OWN.PD), reserved: LONG_RESERVED },
      { address: OWN.PD, base: 0x400000n | PS, reserved: LONG_RESERVED | bits(20n, 13n) },
    ],
  },
  {
    name: "IA-32e, 1 GiB",
    mode: "long",
    physical: 0,
    path: [...longTop, { address: At.PDPT + 8, base: PS, reserved: LONG_RESERVED | bits(29n, 13n) }],
  },
  {
    name: "PAE, 4 KiB",
    mode: "pae",
    physical: At.DATA,
    path: [
      { address: At.PDPT_PAE + 8, base: BigInt(OWN.PD) | P, reserved: 0n, plain: true },
      { address: OWN.PD, base: BigInt(OWN.PT), reserved: PAE_RESERVED },
      { address: OWN.PT, base: BigInt(At.DATA), reserved: PAE_RESERVED },
    ],
  },
  {
    name: "PAE, 2 MiB",
    mode: "pae",
    physical: 0x400000,
    path: [
      { address: At.PDPT_PAE + 8, base: BigInt(OWN.PD) | P, reserved: 0n, plain: true },
      { address: OWN.PD, base: 0x400000n | PS, reserved: PAE_RESERVED | bits(20n, 13n) },
    ],
  },
  {
    name: "32-bit, 4 KiB",
    mode: "paged32",
    physical: At.DATA,
    path: [
      { address: At.PD32 + 4 * (LINEAR >>> 22), base: BigInt(OWN.PT), reserved: 0n },
      { address: OWN.PT, base: BigInt(At.DATA), reserved: 0n },
    ],
  },
  {
    name: "32-bit, 4 MiB",
    mode: "paged32",
    physical: 0x400000,
    path: [{ address: At.PD32 + 4 * (LINEAR >>> 22), base: 0x400000n | PS, reserved: 1n << 21n }],
  },
];

const SMEP = 1n << 20n;
const SMAP = 1n << 21n;
const WP = 0x10000n;
const NXE = 0x800n;

/** Offsets of the code that makes each access; each ends in DONE. */
const STUB = 0x40;
const KINDS = ["read", "write", "fetch"] as const;

function prepare(layout: Layout): Environment {
  const { mode } = layout;
  const long = isLong(mode);
  // The data segment is one that CPL 3 may use, too.
  const sregs: GuestImage["sregs"] = (s) => {
    s.ds = { ...s.ds, selector: Sel.USER_DATA, dpl: 3 };
  };
  runGuest(provider, { mode, code: assembler(mode).done(), sregs });
  const env = new Environment(provider.memory, mode);
  // Memory itself is the supervisor's, but for one page of code.
  for (let page = 0; page < 0x200000; page += 0x1000) env.page(page, BigInt(page) | P | W | A | D);
  env.page(USER_CODE, BigInt(USER_CODE) | P | U | A);
  const stubs = (base: number) => {
    // MOV AL, [BX]; MOV [BX], AL; JMP BX
    KINDS.forEach((kind, i) => {
      const code = kind === "read" ? [0x8a, 0x03] : kind === "write" ? [0x88, 0x03] : [0xff, 0xe3];
      env.write(base + STUB * i, [...code, 0xe6, DONE_PORT]);
    });
  };
  stubs(At.CODE + 0x100);
  stubs(USER_CODE);
  // MOV CR3, DX; JMP BP, or IRET to CPL 3
  env.write(At.CODE, [0x0f, 0x22, 0xda, 0xff, 0xe5]);
  env.write(At.CODE + 0x20, [0x0f, 0x22, 0xda, ...(long ? [0x48] : []), 0xcf]);
  env.write(FRAME, [0xe6, DONE_PORT]);
  env.write(layout.physical + (FRAME % 0x1000), [0xe6, DONE_PORT]);
  return env;
}

function* combinations(values: readonly bigint[]): Generator<bigint> {
  for (let i = 0; i < 1 << values.length; i++)
    yield values.reduce((sum, value, k) => ((i >> k) & 1 ? sum | value : sum), 0n);
}

/** A pseudo-random bit sequence, for control bits that should not matter. */
let seed = 12345;
const coin = () => {
  seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
  return (seed >> 16) & 1;
};

for (const layout of LAYOUTS) {
  const { mode, path } = layout;
  const wide = mode !== "paged32";
  const size = wide ? 8 : 4;
  const leafIndex = path.length - 1;
  // Where the page starts, plus FRAME's offset in what is mapped.
  const target = layout.physical === 0 ? LINEAR + FRAME : LINEAR;

  test(`access rights, ${layout.name}: all combinations (SDM 3A, 4.6, 4.7, 4.8)`, () => {
    const env = prepare(layout);
    const { vcpu, memory } = provider;
    const base = vcpu.getSregs();
    const regs = vcpu.getRegs();
    const put = (address: number, value: bigint) =>
      size === 8 ? env.u64(address, value) : env.u32(address, Number(value));
    const get = (address: number) =>
      size === 8 ? memory.readU64(gpa(address)) : BigInt(memory.readU32(gpa(address)));
    const cr3 = base.cr3;
    const stack = At.STACK_TOP - 64;
    let count = 0;

    const leafRights = wide ? [P, W, U, NX, RESERVED] : [P, W, U];
    const upperRights = wide
      ? [P | W | U, P | U, P | W, P | W | U | NX, W | U, P | W | U | RESERVED]
      : [P | W | U, P | U, P | W, W | U];
    // Which of the upper entries is varied: each in turn
    const upper = path
      .map((_, i) => i)
      .filter((i) => i < leafIndex && path[i].plain !== true && path[i].address !== At.PML4);
    const reservedLarge = [
      ...(path[leafIndex].base & PS ? [path[leafIndex].reserved & bits(29n, 13n)] : []),
    ].map((mask) => mask & -mask);

    for (const nxe of [true, false])
      for (const smep of [true, false])
        for (const smap of [true, false])
          for (const wp of [true, false]) {
            vcpu.setSregs({
              ...base,
              cr0: wp ? base.cr0 | WP : base.cr0 & ~WP,
              cr4: base.cr4 | (smep ? SMEP : 0n) | (smap ? SMAP : 0n),
              efer: nxe ? base.efer | NXE : base.efer & ~NXE,
            });
            for (const user of [false, true]) {
              // At CPL 3 neither SMEP, SMAP nor WP count: one combination, but not always the same.
              if (user && (coin() !== 0 || coin() !== 0)) continue;
              for (const kind of KINDS) {
                if (kind !== "write" && !wp && coin() !== 0) continue;
                for (const ac of user || kind === "fetch" ? [coin() !== 0] : [true, false])
                  for (const varied of upper.length === 0 ? [-1] : upper)
                    for (const upperRight of varied < 0 ? [0n] : upperRights)
                      for (const leafRight of combinations(leafRights)) {
                        const extra =
                          reservedLarge.length > 0 && coin() !== 0 && coin() !== 0 ? reservedLarge[0] : 0n;
                        check(kind, user, { wp, smep, smap, ac, nxe }, varied, upperRight, leafRight | extra);
                      }
              }
            }
          }
    assert.ok(count > 200, `${count} cases`);

    function check(
      kind: Access["kind"],
      user: boolean,
      control: PagingControl,
      varied: number,
      upperRight: bigint,
      leafRight: bigint,
    ): void {
      count++;
      const entries = path.map(({ base: start, plain }, i) =>
        plain === true
          ? start
          : start | (i === leafIndex ? leafRight : i === varied ? upperRight : P | W | U),
      );
      path.forEach(({ address }, i) => {
        if (address !== At.PML4) put(address, entries[i]);
      });
      const steps: Step[] = path.map(({ reserved, plain = false }, i) => ({
        entry: entries[i],
        reserved,
        leaf: i === leafIndex,
        plain,
      }));
      const expected = pageFault(steps, { kind, user }, control, wide);
      const stub = (user ? USER_CODE : At.CODE + 0x100) + STUB * KINDS.indexOf(kind);
      const flags = 2 | (control.ac ? Flag.AC : 0) | Flag.IOPL3;
      if (user) {
        const frame = [
          stub,
          wide && mode === "long" ? Sel.USER_CODE64 : Sel.USER_CODE32,
          flags,
          At.USER_STACK_TOP,
          Sel.USER_DATA,
        ];
        frame.forEach((value, i) => {
          if (mode === "long") env.u64(stack + 8 * i, BigInt(value));
          else env.u32(stack + 4 * i, value);
        });
      }
      const next: Regs = {
        ...regs,
        rip: BigInt(user ? At.CODE + 0x20 : At.CODE),
        rsp: BigInt(stack),
        rflags: BigInt(flags & ~Flag.VM),
        // A write leaves the code there as it is.
        rax: 0xe6n,
        rbx: BigInt(target),
        rbp: BigInt(stub),
        rdx: cr3,
      };
      vcpu.setRegs(next);
      const reason = provider.watched(() => vcpu.run());
      const what = () =>
        `${kind}, ${user ? "user" : "supervisor"}, ${JSON.stringify(control)}, entries ${entries.map((e) => e.toString(16))}`;
      assert.equal(reason, ExitReason.IO, what());
      let found: number | undefined;
      if (vcpu.exit.port === FAULT_PORT) {
        const { rip, rsp } = vcpu.getRegs();
        const vector = Math.floor((Number(rip) - At.HANDLERS) / HANDLER_BYTES);
        assert.equal(vector, PF, what());
        found = Number(env.read32(Number(rsp)));
        assert.equal(vcpu.getSregs().cr2, BigInt(target), what());
      } else assert.equal(vcpu.exit.port, DONE_PORT);
      if (found !== expected) assert.equal(found, expected, what());
      // Back to CPL 0 for the next case.
      if (user || found !== undefined) {
        const now = vcpu.getSregs();
        vcpu.setSregs({
          ...now,
          cs: base.cs,
          ss: base.ss,
          ds: base.ds,
          es: base.es,
          fs: base.fs,
          gs: base.gs,
        });
      }
      path.forEach(({ address, plain }, i) => {
        if (address === At.PML4 || plain === true) return;
        const entry = get(address);
        const leaf = i === leafIndex;
        if (expected === undefined) {
          const marks = A | (leaf && kind === "write" ? D : 0n);
          if (entry !== (entries[i] | marks))
            assert.equal(entry.toString(16), (entries[i] | marks).toString(16), what());
        } else if (leaf ? entry !== entries[i] : (entry & ~A) !== entries[i]) {
          assert.fail(`entry ${i} is ${entry.toString(16)} after a fault: ${what()}`);
        }
      });
    }
  });
}
