/**
 * Port writes that KVM gathers in a ring and that make no exits (api.rst, 4.116, KVM_REGISTER_COALESCED_MMIO; KVM_CAP_COALESCED_PIO).
 * The ring is a page of each vCPU's mapping, and one and the same for the VM.
 */
import { type CoalescedWrites, ExitReason, type VmExit } from "../seam.js";
import { Kvm } from "./abi/constants.js";
import { Ioctl } from "./abi/ioctls.js";
import { kvm_coalesced_mmio, kvm_coalesced_mmio_ring, kvm_coalesced_mmio_zone } from "./abi/structs.js";
import { Errno, HostError, ioctlPointer } from "./host.js";

const PAGE = 4096;
const FIRST = kvm_coalesced_mmio_ring.offset.first >>> 2;
const LAST = kvm_coalesced_mmio_ring.offset.last >>> 2;
const ENTRY = kvm_coalesced_mmio.size;
/** KVM_COALESCED_MMIO_MAX. */
const ENTRIES = Math.floor((PAGE - kvm_coalesced_mmio_ring.size) / ENTRY);
const { phys_addr, len, data } = kvm_coalesced_mmio.offset;

export class KvmCoalescedWrites implements CoalescedWrites {
  readonly #words: Int32Array;
  readonly #ring: DataView;
  readonly #bytes: Uint8Array;
  /** The write that is served, as the exit that it would have been. */
  readonly #write: VmExit;

  /** `mapping`: of any vCPU. */
  constructor(
    readonly vm: number,
    mapping: ArrayBuffer,
  ) {
    const start = Kvm.KVM_COALESCED_MMIO_PAGE_OFFSET * PAGE;
    this.#words = new Int32Array(mapping, start, PAGE >> 2);
    this.#ring = new DataView(mapping, start, PAGE);
    this.#bytes = new Uint8Array(mapping, start, PAGE);
    this.#write = {
      reason: ExitReason.IO,
      port: 0,
      size: 1,
      count: 1,
      isWrite: true,
      address: 0,
      data: new Uint8Array(8),
      detail: 0,
      debug: { exception: 0, pc: 0n, dr6: 0n, dr7: 0n },
    };
  }

  setPort(port: number, on: boolean): void {
    const zone = kvm_coalesced_mmio_zone.encode({ addr: BigInt(port), size: 1, pio: 1 });
    const request = on ? "KVM_REGISTER_COALESCED_MMIO" : "KVM_UNREGISTER_COALESCED_MMIO";
    try {
      ioctlPointer(this.vm, Ioctl[request], zone, request);
    } catch (error) {
      // What is not there need not be taken away.
      if (!on && error instanceof HostError && error.errno === Errno.ENOENT) return;
      throw error;
    }
  }

  get pending(): boolean {
    return this.#words[FIRST] !== this.#words[LAST];
  }

  drain(serve: (write: VmExit) => void): void {
    const words = this.#words;
    const write = this.#write;
    for (;;) {
      const first = Atomics.load(words, FIRST);
      // The kernel writes the entry before it moves `last`.
      if (first === Atomics.load(words, LAST) || first < 0 || first >= ENTRIES) return;
      const at = kvm_coalesced_mmio_ring.size + first * ENTRY;
      write.port = this.#ring.getUint32(at + phys_addr, true);
      write.size = this.#ring.getUint32(at + len, true);
      write.data.set(this.#bytes.subarray(at + data, at + data + 8));
      serve(write);
      Atomics.store(words, FIRST, (first + 1) % ENTRIES);
    }
  }
}
