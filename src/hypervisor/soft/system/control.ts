/** Control and debug registers (SDM vol. 3A, 2.5; vol. 3B, 18.2). */
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { IrqChip } from "../irqchip/irqchip.js";
import type { GuestAccess } from "../mmu/access.js";
import { MAX_PHYSICAL_BITS } from "../mmu/walk.js";
import { Access, Cr0, Cr4, Efer, Seg, type VcpuState, Vector } from "../vcpu-state.js";
import { type DebugUnit, DR7_GD, Dr6 } from "./debug.js";
import { GuestFault, gp, ud } from "./fault.js";
import { cr0Of, cr4Of, isLongModeActive, updateMode } from "./mode.js";
import { SystemType } from "./segments.js";

const CR4_SUPPORTED =
  Cr4.DE |
  Cr4.TSD |
  Cr4.PSE |
  Cr4.PAE |
  Cr4.MCE |
  Cr4.PGE |
  Cr4.PCE |
  Cr4.OSFXSR |
  Cr4.OSXMMEXCPT |
  Cr4.UMIP |
  Cr4.FSGSBASE |
  Cr4.SMEP |
  Cr4.SMAP;
const CR0_SUPPORTED =
  Cr0.PE | Cr0.MP | Cr0.EM | Cr0.TS | Cr0.ET | Cr0.NE | Cr0.WP | Cr0.AM | Cr0.NW | Cr0.CD | Cr0.PG;
/** Changes of these drop all translations (SDM vol. 3A, 4.10.4.1). */
const CR0_TLB = Cr0.PG | Cr0.WP | Cr0.PE;
/** Changes of these load the PDPTEs anew (SDM vol. 3A, 4.4.1). */
const CR0_PDPTE = Cr0.PG | Cr0.CD | Cr0.NW;
const CR4_TLB = Cr4.PSE | Cr4.PAE | Cr4.PGE | Cr4.SMEP | Cr4.SMAP;

/** DR6 and DR7 bits that read as one (SDM vol. 3B, 18.2.3, 18.2.4). */
const DR6_FIXED = 0xffff0ff0n;
const DR6_WRITABLE = 0xe00fn;
const DR7_FIXED = 0x400n;
const DR7_WRITABLE = 0xffff23ffn;

export class ControlRegisters {
  constructor(
    readonly s: VcpuState,
    readonly memory: SharedMemory,
    readonly access: GuestAccess,
    readonly id: number,
    readonly irqchip: IrqChip,
    readonly debug: DebugUnit,
  ) {}

  #flushAll(): void {
    this.access.wasm.flushTlb(this.s.address);
  }

  read(n: number): bigint {
    const { s } = this;
    switch (n) {
      case 0:
        return s.cr0;
      case 2:
        return s.cr2;
      case 3:
        return s.cr3;
      case 4:
        return s.cr4;
      case 8:
        return BigInt(this.irqchip.getCr8(this.id));
      default:
        throw ud();
    }
  }

  write(n: number, value: bigint): void {
    switch (n) {
      case 0:
        this.writeCr0(value);
        return;
      case 2:
        this.s.cr2 = value;
        return;
      case 3:
        this.#writeCr3(value);
        return;
      case 4:
        this.#writeCr4(value);
        return;
      case 8:
        if (value > 15n) throw gp(0);
        this.irqchip.setCr8(this.id, Number(value));
        return;
      default:
        throw ud();
    }
  }

  writeCr0(value: bigint): void {
    const { s } = this;
    if (value >> 32n !== 0n && isLongModeActive(s)) throw gp(0);
    const next = ((Number(value & 0xffffffffn) & CR0_SUPPORTED) | Cr0.ET) >>> 0;
    const paging = next >= Cr0.PG;
    if (paging && (next & Cr0.PE) === 0) throw gp(0);
    if ((next & Cr0.NW) !== 0 && (next & Cr0.CD) === 0) throw gp(0);
    const old = cr0Of(s);
    const efer = Number(s.efer & 0xffffn);
    let nextEfer = efer;
    if (paging && old < Cr0.PG && (efer & Efer.LME) !== 0) {
      // Long mode wants PAE, no 64-bit CS yet, and no 16-bit TSS (SDM vol. 3A, 10.8.5).
      const wideTask = (s.segAccess[Seg.TR] & Access.TYPE) !== SystemType.TSS16_BUSY;
      if ((cr4Of(s) & Cr4.PAE) === 0 || (s.segAccess[Seg.CS] & Access.L) !== 0 || !wideTask) throw gp(0);
      nextEfer |= Efer.LMA;
    } else if (paging && (efer & Efer.LMA) === 0 && ((old ^ next) & CR0_PDPTE) !== 0) {
      if ((cr4Of(s) & Cr4.PAE) !== 0) this.#loadPdptes(s.cr3);
    } else if (!paging && old >= Cr0.PG) {
      if ((efer & Efer.LMA) !== 0 && (s.segAccess[Seg.CS] & Access.L) !== 0) throw gp(0);
      nextEfer &= ~Efer.LMA;
    }
    s.efer = BigInt(nextEfer);
    s.cr0 = BigInt(next);
    if (((old ^ next) & (CR0_TLB | 0)) !== 0 || paging !== old >= Cr0.PG) this.#flushAll();
    updateMode(s, this.memory);
  }

  /** PAE paging holds four entries in registers; reserved bits in them are #GP (SDM vol. 3A, 4.4.1). */
  #loadPdptes(cr3: bigint): void {
    const table = Number(cr3 & 0xffffffe0n);
    const reserved = 0x1e6n | (((1n << 63n) - 1n) & ~((1n << BigInt(MAX_PHYSICAL_BITS)) - 1n)) | (1n << 63n);
    const entries: bigint[] = [];
    for (let i = 0; i < 4; i++) {
      const at = this.access.linear(table + 8 * i);
      const entry = at < 0 ? 0n : this.memory.data.getBigUint64(at, true);
      if ((entry & 1n) !== 0n && (entry & reserved) !== 0n) throw gp(0);
      entries.push(entry);
    }
    entries.forEach((entry, i) => {
      this.s.pdpte[i] = entry;
    });
  }

  reloadPdptes(): void {
    const { s } = this;
    if (cr0Of(s) >= Cr0.PG && (cr4Of(s) & Cr4.PAE) !== 0 && !isLongModeActive(s)) this.#loadPdptes(s.cr3);
  }

  #writeCr3(value: bigint): void {
    const { s } = this;
    if (isLongModeActive(s)) {
      if (value >> BigInt(MAX_PHYSICAL_BITS) !== 0n) throw gp(0);
    } else {
      value &= 0xffffffffn;
      if (cr0Of(s) >= Cr0.PG && (cr4Of(s) & Cr4.PAE) !== 0) this.#loadPdptes(value);
    }
    s.cr3 = value;
    if ((cr4Of(s) & Cr4.PGE) !== 0) this.access.wasm.flushTlbNonGlobal(s.address);
    else this.#flushAll();
  }

  #writeCr4(value: bigint): void {
    const { s } = this;
    const next = Number(value & 0xffffffffn);
    if (value >> 32n !== 0n || (next & ~CR4_SUPPORTED) !== 0) throw gp(0);
    if (isLongModeActive(s) && (next & Cr4.PAE) === 0) throw gp(0);
    const old = cr4Of(s);
    const changed = old ^ next;
    const paging = cr0Of(s) >= Cr0.PG;
    if (
      paging &&
      !isLongModeActive(s) &&
      (next & Cr4.PAE) !== 0 &&
      (changed & (Cr4.PAE | Cr4.PGE | Cr4.PSE | Cr4.SMEP)) !== 0
    ) {
      this.#loadPdptes(s.cr3);
    }
    s.cr4 = BigInt(next >>> 0);
    if ((changed & CR4_TLB) !== 0) this.#flushAll();
    updateMode(s, this.memory);
  }

  // --- debug registers ---

  #checkDebugAccess(n: number): number {
    const { s } = this;
    if ((cr4Of(s) & Cr4.DE) !== 0 && (n === 4 || n === 5)) throw ud();
    if ((s.dr[7] & DR7_GD) !== 0n) {
      s.dr[6] |= BigInt(Dr6.BD);
      throw new GuestFault(Vector.DB);
    }
    return n === 4 ? 6 : n === 5 ? 7 : n;
  }

  readDebug(n: number): bigint {
    return this.s.dr[this.#checkDebugAccess(n)];
  }

  writeDebug(n: number, value: bigint): void {
    const { s } = this;
    const target = this.#checkDebugAccess(n);
    if (target >= 6 && value >> 32n !== 0n) throw gp(0);
    this.setDebug(target, value);
    updateMode(s, this.memory);
  }

  setDebug(n: number, value: bigint): void {
    const { s } = this;
    if (n === 6) s.dr[6] = (value & DR6_WRITABLE) | DR6_FIXED;
    else if (n === 7) s.dr[7] = (value & DR7_WRITABLE) | DR7_FIXED;
    else s.dr[n] = value;
    this.debug.update();
  }
}

export { DR6_FIXED, DR7_FIXED };
