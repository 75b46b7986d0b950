/** The last exit as the seam has it, read out of a vCPU's mapping (struct kvm_run; api.rst, 5). */
import { ExitReason, type VmExit } from "../seam.js";
import { Exit, Kvm } from "./abi/constants.js";
import { kvm_debug_exit_arch, kvm_run, kvm_run_exit } from "./abi/structs.js";

const PAGE = 4096;
const RUN = kvm_run.offset;
const { io, mmio, internal, fail_entry, system_event, hw } = kvm_run_exit;

const IO_DIRECTION = RUN.exit + io.offset.direction;
const IO_SIZE = RUN.exit + io.offset.size;
const IO_PORT = (RUN.exit + io.offset.port) / 2;
const IO_COUNT = (RUN.exit + io.offset.count) / 4;
const IO_DATA_OFFSET = (RUN.exit + io.offset.data_offset) / 4;
const MMIO_ADDRESS = (RUN.exit + mmio.offset.phys_addr) / 4;
const MMIO_DATA = RUN.exit + mmio.offset.data;
const MMIO_LENGTH = (RUN.exit + mmio.offset.len) / 4;
const MMIO_IS_WRITE = RUN.exit + mmio.offset.is_write;
const EXIT_REASON = RUN.exit_reason / 4;
const DEBUG_AT = RUN.exit;

/** `data` of IO and MMIO is KVM's own page: answers go straight to where the kernel looks for them. */
export class KvmExit implements VmExit {
  reason: ExitReason = ExitReason.UNKNOWN;
  port = 0;
  size = 0;
  count = 0;
  isWrite = false;
  address = 0;
  data: Uint8Array;
  detail = 0;
  readonly debug = { exception: 0, pc: 0n, dr6: 0n, dr7: 0n };
  readonly #u8: Uint8Array;
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  readonly #view: DataView;
  readonly #pio: Uint8Array;
  readonly #mmio: Uint8Array;

  constructor(readonly mapping: ArrayBuffer) {
    this.#u8 = new Uint8Array(mapping);
    this.#u16 = new Uint16Array(mapping);
    this.#u32 = new Uint32Array(mapping);
    this.#view = new DataView(mapping);
    this.#pio = new Uint8Array(mapping, Kvm.KVM_PIO_PAGE_OFFSET * PAGE, PAGE);
    this.#mmio = new Uint8Array(mapping, MMIO_DATA, 8);
    this.data = this.#mmio;
  }

  get immediateExit(): boolean {
    return this.#u8[RUN.immediate_exit] !== 0;
  }

  set immediateExit(value: boolean) {
    this.#u8[RUN.immediate_exit] = value ? 1 : 0;
  }

  /** KVM's number of the last exit. */
  get kvmReason(): number {
    return this.#u32[EXIT_REASON];
  }

  /** Instruction bytes of the last emulation failure, where KVM tells. */
  get failedInstruction(): Uint8Array | undefined {
    const failure = kvm_run_exit.emulation_failure.read(this.#view, RUN.exit);
    const known = (failure.flags & BigInt(Kvm.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) !== 0n;
    return failure.ndata > 0 && known ? failure.insn_bytes.subarray(0, failure.insn_size) : undefined;
  }

  /** Take over what KVM_RUN returned; the reason in the seam's words. */
  update(): ExitReason {
    const u32 = this.#u32;
    switch (u32[EXIT_REASON]) {
      case Exit.KVM_EXIT_IO:
        this.port = this.#u16[IO_PORT];
        this.size = this.#u8[IO_SIZE];
        this.count = u32[IO_COUNT];
        this.isWrite = this.#u8[IO_DIRECTION] === Kvm.KVM_EXIT_IO_OUT;
        this.data = this.#pioData(u32[IO_DATA_OFFSET]);
        this.reason = ExitReason.IO;
        break;
      case Exit.KVM_EXIT_MMIO:
        this.address = u32[MMIO_ADDRESS] + u32[MMIO_ADDRESS + 1] * 2 ** 32;
        this.size = u32[MMIO_LENGTH];
        this.count = 1;
        this.isWrite = this.#u8[MMIO_IS_WRITE] !== 0;
        this.data = this.#mmio;
        this.reason = ExitReason.MMIO;
        break;
      default:
        this.#rare(u32[EXIT_REASON]);
    }
    return this.reason;
  }

  #pioData(offset: number): Uint8Array {
    return offset === this.#pio.byteOffset ? this.#pio : new Uint8Array(this.mapping, offset, PAGE);
  }

  #rare(kvmReason: number): void {
    const view = this.#view;
    const at = RUN.exit;
    switch (kvmReason) {
      case Exit.KVM_EXIT_HLT:
        this.reason = ExitReason.HLT;
        break;
      case Exit.KVM_EXIT_SHUTDOWN:
        this.reason = ExitReason.SHUTDOWN;
        break;
      case Exit.KVM_EXIT_INTR:
        this.reason = ExitReason.INTR;
        break;
      case Exit.KVM_EXIT_DEBUG: {
        const { exception, pc, dr6, dr7 } = kvm_debug_exit_arch.read(view, DEBUG_AT);
        Object.assign(this.debug, { exception, pc, dr6, dr7 });
        this.reason = ExitReason.DEBUG;
        break;
      }
      case Exit.KVM_EXIT_INTERNAL_ERROR:
        this.detail = view.getUint32(at + internal.offset.suberror, true);
        this.reason = ExitReason.INTERNAL_ERROR;
        break;
      case Exit.KVM_EXIT_FAIL_ENTRY:
        this.detail = Number(view.getBigUint64(at + fail_entry.offset.hardware_entry_failure_reason, true));
        this.reason = ExitReason.FAIL_ENTRY;
        break;
      case Exit.KVM_EXIT_SYSTEM_EVENT:
        this.detail = view.getUint32(at + system_event.offset.type, true);
        this.reason = ExitReason.SYSTEM_EVENT;
        break;
      default:
        // Nothing that was asked for: UNKNOWN, with KVM's reason, or the hardware's where KVM knows none.
        this.detail =
          kvmReason === Exit.KVM_EXIT_UNKNOWN
            ? Number(view.getBigUint64(at + hw.offset.hardware_exit_reason, true))
            : kvmReason;
        this.reason = ExitReason.UNKNOWN;
    }
  }

  /** Take over an exit of the software CPU, which stepped in. */
  copy(exit: VmExit): void {
    const { reason, port, size, count, isWrite, address, data, detail, debug } = exit;
    Object.assign(this, { reason, port, size, count, isWrite, address, data, detail });
    Object.assign(this.debug, debug);
  }
}
