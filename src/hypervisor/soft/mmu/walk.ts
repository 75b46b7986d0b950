/**
 * Page walks in every paging mode (SDM vol. 3A, chapter 4), as functions of the module, and TLB flushes.
 */
import {
  AccessKind,
  Counter,
  Cr0,
  Cr4,
  DTLB_BYTES,
  DTLB_EMPTY_SET,
  DTLB_ENTRIES,
  Dtlb,
  Efer,
  FTLB_BYTES,
  FTLB_ENTRIES,
  FTLB_OFFSET,
  Ftlb,
  MmuMode,
  O,
  PHYS_PAGES,
  STRUCTURE_CACHE_ENTRIES,
  STRUCTURE_CACHE_OFFSET,
  StructureCache,
  TLB_LOG_ENTRIES,
  TLB_LOG_OFFSET,
  TLB_OFFSET,
  TlbFlag,
  WALK_WRITABLE,
} from "../vcpu-state.js";
import { atomicCmpxchg, I32, I64, load32, load64 } from "../wasm/expr.js";
import type { FuncRef, FunctionBuilder, Label, ModuleBuilder } from "../wasm/module.js";
import { dataTlbEntry, fetchTlbEntry } from "./tlb-entry.js";

/** Note that the page just walked to, at `va`, was put into TLB entry `at`. */
export function noteFilled(f: FunctionBuilder, cpu: I32, va: I64, at: I32, flags: I32): void {
  f.if(flags.and(TlbFlag.GLOBAL).eqz(), () => {
    const count = f.let(load32(cpu, O.tlbLogged));
    f.if(count.ltU(TLB_LOG_ENTRIES), () => f.store32(cpu.add(count.shl(2)), at, TLB_LOG_OFFSET));
    f.store32(cpu, count.add(1), O.tlbLogged);
  });
  f.if(flags.and(TlbFlag.LARGE), () =>
    f.store64(cpu, load64(cpu, O.largePages).or(regionBit(va)), O.largePages),
  );
}

const regionBit = (va: I64): I64 => I64.const(1).shl(va.shrU(LARGEST_PAGE_SHIFT));

/** Bits of paging-structure entries (SDM vol. 3A, tables 4-14 to 4-19). */
const Pte = { P: 1, RW: 2, US: 4, A: 0x20, D: 0x40, PS: 0x80, G: 0x100 } as const;
/** Width of guest-physical addresses, as CPUID 0x80000008 reports it. */
export const MAX_PHYSICAL_BITS = 40;
const ADDRESS_MASK = 0x000f_ffff_ffff_f000n;
const RESERVED_ADDRESS_BITS = ADDRESS_MASK & ~((1n << BigInt(MAX_PHYSICAL_BITS)) - 1n);
/** Reserved in PAE paging: 52–62 (SDM vol. 3A, tables 4-8 to 4-11). */
const PAE_RESERVED = 0x7ff0_0000_0000_0000n;
const NX = 1n << 63n;
const FAULT = 0x100;
/** 1 GiB */
const LARGEST_PAGE_SHIFT = 30;

/** Linear addresses that one page table maps: 2 MiB. */
const STRUCTURE_CACHE_SHIFT = 21;

const structureCacheEntry = (cpu: I32, va: I64): I32 =>
  cpu.add(STRUCTURE_CACHE_OFFSET).add(
    va
      .shrU(STRUCTURE_CACHE_SHIFT)
      .toI32()
      .and(STRUCTURE_CACHE_ENTRIES - 1)
      .shl(Math.log2(StructureCache.size)),
  );

function dropStructures(f: FunctionBuilder, cpu: I32): void {
  const bytes = STRUCTURE_CACHE_ENTRIES * StructureCache.size;
  f.fill(cpu.add(STRUCTURE_CACHE_OFFSET), I32.const(0xff), I32.const(bytes));
}

export interface WalkFunctions {
  /** (cpu, physical) → the page's entry in the physical map, 0 where it is not RAM. */
  readonly physEntry: FuncRef<readonly ["i32", "i64"], "i32">;
  /** (cpu, linear, AccessKind) → 0 and state.walkPhysical, walkFlags; or 0x100 | the page fault's error code. */
  readonly walk: FuncRef<readonly ["i32", "i64", "i32"], "i32">;
  exportFlushes(module: ModuleBuilder): void;
}

export function defineWalk(module: ModuleBuilder): WalkFunctions {
  const physEntry = module.func("physEntry", ["i32", "i64"], "i32", (f, cpu, pa) => {
    const page = f.let(pa.shrU(12));
    f.if(page.geU(PHYS_PAGES), () => f.return(I32.const(0)));
    f.return(load32(load32(cpu, O.physMap).add(page.toI32().shl(2))));
  });

  /** Whether an entry on the way has to be marked accessed. */
  const needsMark = (access: I32, unmarked: I32) => unmarked.and(access.and(AccessKind.PEEK).eqz());

  /** Finish a walk at a leaf: permissions, accessed and dirty bits, result. */
  interface Leaf {
    us: I32;
    rw: I32;
    nx: I32;
    entry: I64;
    /** Linear-memory address of the entry, and its bytes. */
    at: I32;
    width: 4 | 8;
    retry: Label;
    physical: I64;
    large: I32;
  }
  const errorBits = (f: FunctionBuilder, cpu: I32, access: I32): I32 => {
    // SDM vol. 3A, 4.7: fetches are told from reads with CR4.SMEP, or with NXE where entries have an XD bit.
    const nx = load32(cpu, O.efer).and(Efer.NXE).ne(0).and(load32(cpu, O.cr4).and(Cr4.PAE).ne(0));
    const fetchReported = nx.or(load32(cpu, O.cr4).and(Cr4.SMEP).ne(0));
    return f.let(
      access
        .and(AccessKind.WRITE | AccessKind.USER)
        .or(access.and(AccessKind.FETCH).select(fetchReported, 0))
        .or(FAULT),
    );
  };
  const finish = (f: FunctionBuilder, cpu: I32, access: I32, error: I32, leaf: Leaf) => {
    f.if(access.and(AccessKind.PEEK), () => {
      f.store64(cpu, leaf.physical, O.walkPhysical);
      f.return(I32.const(0));
    });
    const user = access.and(AccessKind.USER);
    const write = f.let(access.and(AccessKind.WRITE));
    const fetch = f.let(access.and(AccessKind.FETCH));
    const protection = () => f.return(error.or(Pte.P));
    const writeProtect = f.let(load32(cpu, O.cr0).and(Cr0.WP).or(user));
    f.if(user.ne(0).and(leaf.us.eqz()), protection);
    f.if(write.ne(0).and(leaf.rw.eqz()).and(writeProtect.ne(0)), protection);
    f.if(fetch.ne(0).and(leaf.nx), protection);
    f.if(user.eqz().and(leaf.us), () => {
      f.if(
        fetch,
        () => f.if(load32(cpu, O.cr4).and(Cr4.SMEP), protection),
        () => {
          const enforced = load32(cpu, O.cr4)
            .and(Cr4.SMAP)
            .select(access.and(AccessKind.IMPLICIT), load32(cpu, O.mmuMode).eq(MmuMode.SUPERVISOR));
          f.if(enforced, protection);
        },
      );
    });
    const bits = f.let(I64.const(Pte.A).or(I64.const(Pte.D).select(write, I64.const(0))));
    f.if(leaf.entry.and(bits).ne(bits), () => {
      const next = leaf.entry.or(bits);
      if (leaf.width === 8) {
        f.brIf(leaf.retry, (atomicCmpxchg(8, leaf.at, leaf.entry, next) as I64).ne(leaf.entry));
      } else {
        f.brIf(
          leaf.retry,
          (atomicCmpxchg(4, leaf.at, leaf.entry.toI32(), next.toI32()) as I32).ne(leaf.entry.toI32()),
        );
      }
    });
    const dirty = leaf.entry.or(bits).and(Pte.D).ne(0);
    const writable = dirty.and(leaf.rw.or(writeProtect.eqz()));
    const global = leaf.entry.and(Pte.G).ne(0).and(load32(cpu, O.cr4).and(Cr4.PGE).ne(0));
    f.store64(cpu, leaf.physical, O.walkPhysical);
    f.store32(
      cpu,
      I32.const(WALK_WRITABLE)
        .select(writable, 0)
        .or(I32.const(TlbFlag.GLOBAL).select(global, 0))
        .or(I32.const(TlbFlag.LARGE).select(leaf.large, 0)),
      O.walkFlags,
    );
    f.return(I32.const(0));
  };

  /** Two-level paging with 4-byte entries (SDM vol. 3A, 4.3). */
  const walk32 = module.func("walk32", ["i32", "i64", "i32"], "i32", (f, cpu, va64, access) => {
    const va = f.let(va64.toI32());
    const error = errorBits(f, cpu, access);
    const readEntry = (table: I32, index: I32): [I32, I32] => {
      const pa = f.let(table.add(index.shl(2)));
      const page = f.let(f.call(physEntry, cpu, pa.toI64U()));
      f.if(page.eqz(), () => f.return(error));
      const at = f.let(page.and(~0xfff).add(pa.and(0xfff)));
      return [at, f.let(load32(at))];
    };
    f.loop((retry) => {
      const [pdeAt, pde] = readEntry(load32(cpu, O.cr3).and(~0xfff), va.shrU(22));
      f.if(pde.and(Pte.P).eqz(), () => f.return(error));
      const us = f.let(pde.and(Pte.US).ne(0));
      const rw = f.let(pde.and(Pte.RW).ne(0));
      f.if(pde.and(Pte.PS).ne(0).and(load32(cpu, O.cr4).and(Cr4.PSE).ne(0)), () => {
        // PSE-36: bits 13–20 are physical address bits 32–39; 21 is reserved (SDM vol. 3A, table 4-4).
        f.if(pde.and(1 << 21), () => f.return(error.or(Pte.P | 8)));
        const high = pde.shrU(13).and(0xff).toI64U().shl(32);
        finish(f, cpu, access, error, {
          us,
          rw,
          nx: I32.const(0),
          entry: pde.toI64U(),
          at: pdeAt,
          width: 4,
          retry,
          physical: f.let(high.or(pde.and(0xffc00000).or(va.and(0x3fffff)).toI64U())),
          large: I32.const(1),
        });
      });
      f.if(needsMark(access, pde.and(Pte.A).eqz()), () =>
        f.brIf(retry, (atomicCmpxchg(4, pdeAt, pde, pde.or(Pte.A)) as I32).ne(pde)),
      );
      const [pteAt, pte] = readEntry(pde.and(~0xfff), va.shrU(12).and(0x3ff));
      f.if(pte.and(Pte.P).eqz(), () => f.return(error));
      finish(f, cpu, access, error, {
        us: f.let(us.and(pte.and(Pte.US).ne(0))),
        rw: f.let(rw.and(pte.and(Pte.RW).ne(0))),
        nx: I32.const(0),
        entry: f.let(pte.toI64U()),
        at: pteAt,
        width: 4,
        retry,
        physical: f.let(pte.and(~0xfff).or(va.and(0xfff)).toI64U()),
        large: I32.const(0),
      });
    });
    f.unreachable();
  });

  /** PAE and four-level paging; hands over to walk32, and to no paging at all. */
  const walkTables = module.func("walkTables", ["i32", "i64", "i32"], "i32", (f, cpu, va, access) => {
    f.if(load32(cpu, O.cr0).geS(0), () => {
      f.store64(cpu, va.and(I64.const(0xffffffff)), O.walkPhysical);
      f.store32(cpu, I32.const(WALK_WRITABLE), O.walkFlags);
      f.return(I32.const(0));
    });
    f.store64(cpu, load64(cpu, O.counters + 8 * Counter.WALK).add(1), O.counters + 8 * Counter.WALK);
    const longMode = f.let(load32(cpu, O.efer).and(Efer.LMA));
    f.if(longMode.or(load32(cpu, O.cr4).and(Cr4.PAE)).eqz(), () =>
      f.returnCall(walk32 as unknown as FuncRef, cpu, va, access),
    );
    const error = errorBits(f, cpu, access);
    const reserved = f.local("i64");
    f.set(
      reserved,
      I64.const(RESERVED_ADDRESS_BITS).or(
        I64.const(0).select(load32(cpu, O.efer).and(Efer.NXE), I64.const(NX)),
      ),
    );
    /** `table`: linear-memory address. */
    const [table, level, us, rw, nx] = [
      f.local("i32"),
      f.local("i32"),
      f.local("i32"),
      f.local("i32"),
      f.local("i32"),
    ];
    f.loop((retry) => {
      f.set(us, I32.const(1));
      f.set(rw, I32.const(1));
      f.set(nx, I32.const(0));
      const setTable = (entry: I64) => {
        const page = f.let(f.call(physEntry, cpu, f.let(entry.and(I64.const(ADDRESS_MASK)))));
        f.if(page.eqz(), () => f.return(error));
        f.set(table, page.and(~0xfff));
      };
      f.if(
        longMode,
        () => {
          const cached = f.let(structureCacheEntry(cpu, va));
          f.if(
            load64(cached, StructureCache.tag).eq(va.shrU(STRUCTURE_CACHE_SHIFT)),
            () => {
              const rights = f.let(load32(cached, StructureCache.rights));
              f.set(us, rights.and(1));
              f.set(rw, rights.shrU(1).and(1));
              f.set(nx, rights.shrU(2));
              f.set(table, load32(cached, StructureCache.table));
              f.set(level, I32.const(1));
            },
            () => {
              setTable(load64(cpu, O.cr3));
              f.set(level, I32.const(4));
            },
          );
        },
        () => {
          const pdpte = f.let(load64(cpu.add(va.shrU(27).toI32().and(0x18)), O.pdpte));
          f.if(pdpte.and(Pte.P).eqz(), () => f.return(error));
          setTable(pdpte);
          f.set(level, I32.const(2));
          f.set(reserved, reserved.get.or(I64.const(PAE_RESERVED)));
        },
      );
      f.loop((nextLevel) => {
        const shift = f.let(level.get.mul(9).add(3).toI64U());
        const at = f.let(table.get.add(va.shrU(shift).toI32().and(0x1ff).shl(3)));
        const entry = f.let(load64(at));
        f.if(entry.and(Pte.P).eqz(), () => f.return(error));
        const reservedFault = () => f.return(error.or(Pte.P | 8));
        f.if(entry.and(reserved.get).ne(0), reservedFault);
        f.set(us, us.get.and(entry.shrU(2).toI32()).and(1));
        f.set(rw, rw.get.and(entry.shrU(1).toI32()).and(1));
        f.set(nx, nx.get.or(entry.shrU(63).toI32()));
        const large = f.let(entry.and(Pte.PS).ne(0).and(level.get.gtU(1)));
        f.if(large.and(level.get.eq(4)), reservedFault);
        f.if(large.or(level.get.eq(1)), () => {
          const offsetMask = f.let(I64.const(1).shl(shift).sub(1));
          // Bits 13 up to the page's size are reserved (12 is PAT).
          f.if(large.and(entry.and(offsetMask).and(~0x1fff).ne(0)), reservedFault);
          const frame = entry.and(I64.const(ADDRESS_MASK)).and(offsetMask.not());
          finish(f, cpu, access, error, {
            us: us.get,
            rw: rw.get,
            nx: nx.get,
            entry,
            at,
            width: 8,
            retry,
            physical: f.let(frame.or(va.and(offsetMask))),
            large,
          });
        });
        f.if(needsMark(access, entry.and(Pte.A).eqz()), () =>
          f.brIf(retry, (atomicCmpxchg(8, at, entry, entry.or(Pte.A)) as I64).ne(entry)),
        );
        setTable(entry);
        f.set(level, level.get.sub(1));
        const isCacheable = level.get.eq(1).and(longMode.ne(0)).and(entry.and(Pte.A).ne(0));
        f.if(isCacheable, () => {
          const cached = f.let(structureCacheEntry(cpu, va));
          f.store64(cached, va.shrU(STRUCTURE_CACHE_SHIFT), StructureCache.tag);
          f.store32(cached, table.get, StructureCache.table);
          f.store32(cached, us.get.or(rw.get.shl(1)).or(nx.get.shl(2)), StructureCache.rights);
        });
        f.br(nextLevel);
      });
    });
    f.unreachable();
  });

  // A page fault drops what the structure cache has of its address (SDM vol. 3A, 4.10.4.1). Here it is dropped before, and the
  // fault is one of the structures themselves.
  const walk = module.func("walk", ["i32", "i64", "i32"], "i32", (f, cpu, va, access) => {
    const result = f.let(f.call(walkTables, cpu, va, access));
    f.if(result.eqz(), () => f.return(result));
    const cached = f.let(structureCacheEntry(cpu, va));
    f.if(load64(cached, StructureCache.tag).ne(va.shrU(STRUCTURE_CACHE_SHIFT)), () => f.return(result));
    f.store64(cached, I64.const(-1), StructureCache.tag);
    f.returnCall(walkTables as unknown as FuncRef, cpu, va, access);
  });

  return { physEntry, walk, exportFlushes };
}

function exportFlushes(module: ModuleBuilder): void {
  const each = (f: FunctionBuilder, start: I32, count: number, size: number, body: (at: I32) => void) => {
    const at = f.local("i32");
    f.set(at, start);
    const end = f.let(start.add(count * size));
    f.loop((again) => {
      body(at.get);
      f.set(at, at.get.add(size));
      f.brIf(again, at.get.ne(end));
    });
  };
  /** Drop those halves of the data TLB's entry that `is` says. */
  const dropHalves = (f: FunctionBuilder, at: I32, is: (tag: I64, flags: I32) => I32) => {
    for (const { tag, flags } of [Dtlb.read, Dtlb.write])
      f.if(is(load64(at, tag), load32(at, flags)), () => f.store64(at, I64.const(-1), tag));
  };
  const isLocal = (_: unknown, flags: I32) => flags.and(TlbFlag.GLOBAL).eqz();
  // Every entry.
  module.export(
    module.func("flushTlb", ["i32"], undefined, (f, cpu) => {
      f.fill(cpu.add(TLB_OFFSET), I32.const(0xff), I32.const(FTLB_OFFSET - TLB_OFFSET + 2 * FTLB_BYTES));
      dropStructures(f, cpu);
      f.store32(cpu, I32.const(0), O.tlbLogged);
      f.store64(cpu, I64.const(0), O.largePages);
    }),
  );
  // What a load of CR3 drops: all but global pages.
  module.export(
    module.func("flushTlbNonGlobal", ["i32"], undefined, (f, cpu) => {
      f.store64(cpu, load64(cpu, O.counters + 8 * Counter.FLUSH).add(1), O.counters + 8 * Counter.FLUSH);
      dropStructures(f, cpu);
      const count = f.let(load32(cpu, O.tlbLogged));
      f.store32(cpu, I32.const(0), O.tlbLogged);
      f.if(count.leU(TLB_LOG_ENTRIES), () => {
        const left = f.local("i32");
        f.set(left, count);
        const firstFetch = f.let(cpu.add(FTLB_OFFSET));
        f.block((done) =>
          f.loop((again) => {
            f.brIf(done, left.get.eqz());
            f.set(left, left.get.sub(1));
            const at = f.let(load32(cpu.add(left.get.shl(2)), TLB_LOG_OFFSET));
            f.if(
              at.ltU(firstFetch),
              () => dropHalves(f, at, isLocal),
              () =>
                f.if(load32(at, Ftlb.flags).and(TlbFlag.GLOBAL).eqz(), () =>
                  f.store64(at, I64.const(-1), Ftlb.tag),
                ),
            );
            f.br(again);
          }),
        );
        f.return();
      });
      each(f, cpu.add(TLB_OFFSET), DTLB_EMPTY_SET * DTLB_ENTRIES, Dtlb.size, (at) =>
        dropHalves(f, at, isLocal),
      );
      each(f, cpu.add(FTLB_OFFSET), 2 * FTLB_ENTRIES, Ftlb.size, (at) =>
        f.if(load32(at, Ftlb.flags).and(TlbFlag.GLOBAL).eqz(), () => f.store64(at, I64.const(-1), Ftlb.tag)),
      );
    }),
  );
  // INVLPG: the page at `va`, and what of large pages is within the largest that may hold it.
  module.export(
    module.func("flushPage", ["i32", "i64"], undefined, (f, cpu, va) => {
      dropStructures(f, cpu);
      const page = f.let(va.and(~0xfff));
      f.if(load64(cpu, O.largePages).and(regionBit(va)).eqz(), () => {
        const fetch = f.let(fetchTlbEntry(cpu.add(FTLB_OFFSET), va));
        for (let set = 0; set < 2; set++) {
          f.if(load64(fetch, set * FTLB_BYTES + Ftlb.tag).eq(page), () =>
            f.store64(fetch, I64.const(-1), set * FTLB_BYTES + Ftlb.tag),
          );
        }
        const data = f.let(dataTlbEntry(cpu.add(TLB_OFFSET), va));
        for (let set = 0; set < DTLB_EMPTY_SET; set++)
          dropHalves(f, data.add(set * DTLB_BYTES), (tag) => tag.eq(page));
        f.return();
      });
      const region = f.let(va.shrU(LARGEST_PAGE_SHIFT));
      const sameRegion = (tag: I64, flags: I32) =>
        tag.eq(page).or(flags.and(TlbFlag.LARGE).ne(0).and(tag.shrU(LARGEST_PAGE_SHIFT).eq(region)));
      each(f, cpu.add(TLB_OFFSET), DTLB_EMPTY_SET * DTLB_ENTRIES, Dtlb.size, (at) =>
        dropHalves(f, at, sameRegion),
      );
      each(f, cpu.add(FTLB_OFFSET), 2 * FTLB_ENTRIES, Ftlb.size, (at) =>
        f.if(sameRegion(load64(at, Ftlb.tag), load32(at, Ftlb.flags)), () =>
          f.store64(at, I64.const(-1), Ftlb.tag),
        ),
      );
    }),
  );
  // Make writes to the page at linear-memory address `target` take the slow path.
  module.export(
    module.func("flushWrites", ["i32", "i32"], undefined, (f, cpu, target) => {
      const { tag, addend } = Dtlb.write;
      each(f, cpu.add(TLB_OFFSET), DTLB_EMPTY_SET * DTLB_ENTRIES, Dtlb.size, (at) =>
        f.if(load64(at, tag).toI32().add(load32(at, addend)).eq(target), () =>
          f.store64(at, I64.const(-1), tag),
        ),
      );
    }),
  );
}
