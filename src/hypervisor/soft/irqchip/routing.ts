/**
 * From GSIs and MSIs to the interrupt controllers: KVM_SET_GSI_ROUTING, KVM_IRQ_LINE and KVM_SIGNAL_MSI
 * (Linux, Documentation/virt/kvm/api.rst), MSI address and data as in SDM vol. 3A, 11.11.
 */
import { array, Layout, type ViewOf } from "../../../memory/layout.js";
import { Mutex } from "../../../memory/mutex.js";
import type { SharedMemory } from "../../../memory/shared-memory.js";
import type { StateAllocator } from "../../../memory/state-allocator.js";
import { defaultRoutes } from "../../gsi-routes.js";
import type { IrqRoute, Msi } from "../../seam.js";
import { destination8, deviceDeliveryMode, type InterruptBus } from "./interrupt-bus.js";
import { IOAPIC_PINS, type Ioapic } from "./ioapic.js";
import type { PicPair } from "./pic.js";

/** KVM_MAX_IRQ_ROUTES of older kernels; newer ones have 4096. */
export const MAX_ROUTES = 1024;
export const MAX_GSI = 4095;

const PIC_PINS = 8;

/** Kinds of route as they are in shared memory; 0 is none. */
const Kind = { PIC_MASTER: 1, PIC_SLAVE: 2, IOAPIC: 3, MSI: 4 } as const;

/** MSI address, low half: 0xFEE, destination, redirection hint and mode (SDM vol. 3A, 11.11.1). */
const MsiAddress = {
  PREFIX: 0xfee,
  PREFIX_SHIFT: 20,
  DESTINATION_SHIFT: 12,
  /** Destination bits 14:8, as KVM_FEATURE_MSI_EXT_DEST_ID has them. */
  EXTENDED_SHIFT: 5,
  EXTENDED_MASK: 0x7f,
  REDIRECTION_HINT: 1 << 3,
  LOGICAL: 1 << 2,
} as const;
/** Bits 31:8 of the upper half are destination bits 31:8 (KVM_CAP_X2APIC_API). */
const MSI_HIGH_DESTINATION = 0xffffff00;

/** MSI data (SDM vol. 3A, 11.11.2). */
const MsiData = { VECTOR: 0xff, DELIVERY_MODE_SHIFT: 8, ASSERT: 1 << 14, LEVEL: 1 << 15 } as const;

const ROUTING_STATE = new Layout("irq-routing", {
  lock: "u32",
  /** Incremented at every change: threads then rebuild what they know of the table. */
  generation: "u32",
  count: "u32",
  gsi: array("u32", MAX_ROUTES),
  kind: array("u32", MAX_ROUTES),
  /** Pin, or the MSI's data. */
  data: array("u32", MAX_ROUTES),
  addressLow: array("u32", MAX_ROUTES),
  addressHigh: array("u32", MAX_ROUTES),
});

/** A route as it is in shared memory. */
interface Target {
  readonly kind: number;
  readonly data: number;
  readonly addressLow: number;
  readonly addressHigh: number;
}

export class IrqRouting {
  readonly #state: ViewOf<typeof ROUTING_STATE>;
  readonly #lock: Mutex;
  readonly #words: Int32Array;
  readonly #generationWord: number;
  /** The table by GSI, as it was at generation `#seen`: one thread's lines never meet a table half replaced. */
  #byGsi = new Map<number, Target[]>();
  #seen = -1;

  constructor(
    memory: SharedMemory,
    allocator: StateAllocator,
    readonly pic: PicPair,
    readonly ioapic: Ioapic,
    readonly bus: InterruptBus,
  ) {
    this.#state = allocator.alloc(ROUTING_STATE, "irq-routing");
    this.#lock = new Mutex("irq-routing", memory, this.#state.address + ROUTING_STATE.offset.lock);
    this.#words = memory.i32;
    this.#generationWord = (this.#state.address + ROUTING_STATE.offset.generation) >>> 2;
  }

  reset(): void {
    this.setRoutes(defaultRoutes());
  }

  /** Replace all routes. Throws `RangeError` for a route that leads nowhere, and leaves the table as it was. */
  setRoutes(routes: readonly IrqRoute[]): void {
    if (routes.length > MAX_ROUTES) {
      throw new RangeError(`${routes.length} GSI routes: no more than ${MAX_ROUTES} are possible`);
    }
    for (const route of routes) checkRoute(route);
    const state = this.#state;
    this.#lock.with(() => {
      for (const [i, route] of routes.entries()) {
        state.gsi[i] = route.gsi;
        if (route.type === "msi") {
          state.kind[i] = Kind.MSI;
          state.data[i] = route.data;
          state.addressLow[i] = Number(route.address & 0xffffffffn);
          state.addressHigh[i] = Number((route.address >> 32n) & 0xffffffffn);
        } else {
          state.kind[i] = KIND_OF_CHIP[route.chip];
          state.data[i] = route.pin;
        }
      }
      state.count = routes.length;
      Atomics.add(this.#words, this.#generationWord, 1);
    });
  }

  #routes(gsi: number): readonly Target[] | undefined {
    if (Atomics.load(this.#words, this.#generationWord) !== this.#seen) this.#refresh();
    return this.#byGsi.get(gsi);
  }

  #refresh(): void {
    this.#lock.with(() => {
      const { count, gsi, kind, data, addressLow, addressHigh } = this.#state;
      const byGsi = new Map<number, Target[]>();
      for (let i = 0; i < count; i++) {
        const targets = byGsi.get(gsi[i]) ?? [];
        targets.push({
          kind: kind[i],
          data: data[i],
          addressLow: addressLow[i],
          addressHigh: addressHigh[i],
        });
        byGsi.set(gsi[i], targets);
      }
      this.#byGsi = byGsi;
      this.#seen = Atomics.load(this.#words, this.#generationWord);
    });
  }

  /** KVM_IRQ_LINE: every route of the GSI gets the level; an MSI goes out when it is high. Unknown GSIs lead nowhere. */
  setIrqLine(gsi: number, level: boolean): void {
    const targets = this.#routes(gsi);
    if (targets === undefined) return;
    for (const { kind, data, addressLow, addressHigh } of targets) {
      switch (kind) {
        case Kind.PIC_MASTER:
          this.pic.setIrq(data, level);
          break;
        case Kind.PIC_SLAVE:
          this.pic.setIrq(PIC_PINS + data, level);
          break;
        case Kind.IOAPIC:
          this.ioapic.setPin(data, level);
          break;
        case Kind.MSI:
          if (level) this.#signal(addressLow, addressHigh, data);
          break;
      }
    }
  }

  /** KVM_SIGNAL_MSI. How many vCPUs got it is returned: 0 where the address is not that of an interrupt message. */
  signalMsi(msi: Msi): number {
    return this.#signal(
      Number(msi.address & 0xffffffffn),
      Number((msi.address >> 32n) & 0xffffffffn),
      msi.data,
    );
  }

  #signal(low: number, high: number, data: number): number {
    if (low >>> MsiAddress.PREFIX_SHIFT !== MsiAddress.PREFIX) return 0;
    const level = (data & MsiData.LEVEL) !== 0;
    // A level-triggered message that de-asserts ends nothing here: the EOI does (SDM vol. 3A, 11.11.2).
    if (level && (data & MsiData.ASSERT) === 0) return 0;
    const extended = ((low >>> MsiAddress.EXTENDED_SHIFT) & MsiAddress.EXTENDED_MASK) << 8;
    const wide = (extended | (high & MSI_HIGH_DESTINATION)) >>> 0;
    const field = (low >>> MsiAddress.DESTINATION_SHIFT) & 0xff;
    return this.bus.deliver({
      destination: wide === 0 ? destination8(field) : (wide | field) >>> 0,
      logical: (low & MsiAddress.LOGICAL) !== 0,
      mode: deviceDeliveryMode((data >>> MsiData.DELIVERY_MODE_SHIFT) & 7),
      vector: data & MsiData.VECTOR,
      level,
      redirect: (low & MsiAddress.REDIRECTION_HINT) !== 0,
    });
  }
}

const KIND_OF_CHIP = {
  "pic-master": Kind.PIC_MASTER,
  "pic-slave": Kind.PIC_SLAVE,
  ioapic: Kind.IOAPIC,
} as const;

function checkRoute(route: IrqRoute): void {
  if (!Number.isInteger(route.gsi) || route.gsi < 0 || route.gsi > MAX_GSI) {
    throw new RangeError(`GSI ${route.gsi} cannot be routed: 0 to ${MAX_GSI} can`);
  }
  if (route.type === "msi") return;
  const pins = route.chip === "ioapic" ? IOAPIC_PINS : PIC_PINS;
  if (!Number.isInteger(route.pin) || route.pin < 0 || route.pin >= pins) {
    throw new RangeError(`GSI ${route.gsi}: ${route.chip} has no pin ${route.pin}`);
  }
}
