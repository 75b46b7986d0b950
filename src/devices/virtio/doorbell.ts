/**
 * The doorbell of a device: where its driver writes notifications, as the provider of the CPU knows it, so that they cost the vCPU no
 * exit. Without one, or where the provider has no place for it, notifications are register writes like others.
 */
import type { Doorbell, Vm } from "../../hypervisor/seam.js";
import { Layout, type ViewOf } from "../../memory/layout.js";
import type { StateAllocator } from "../../memory/state-allocator.js";

export type DoorbellVm = Pick<Vm, "addDoorbell" | "removeDoorbell">;

/** Address below 4 GiB, where all windows are; 0: no doorbell. */
const DEVICE_DOORBELL = new Layout("device-doorbell", { at: "u32" });

export class DeviceDoorbell {
  readonly #state: ViewOf<typeof DEVICE_DOORBELL>;
  readonly #vm: DoorbellVm;
  readonly #bell: Omit<Doorbell, "address">;

  constructor(allocator: StateAllocator, name: string, vm: DoorbellVm, bell: Omit<Doorbell, "address">) {
    this.#state = allocator.alloc(DEVICE_DOORBELL, `${name}.doorbell`);
    this.#vm = vm;
    this.#bell = bell;
  }

  /** Have the doorbell at `address` only, or none. Device lock held. */
  place(address: number | undefined): void {
    const before = this.#state.at;
    const after = address ?? 0;
    if (before === after) return;
    if (before !== 0) this.#vm.removeDoorbell({ ...this.#bell, address: before });
    this.#state.at = after;
    if (after === 0) return;
    try {
      this.#vm.addDoorbell({ ...this.#bell, address: after });
    } catch {
      // Taken by another device that the guest put at the same address, or one too many.
      this.#state.at = 0;
    }
  }
}
