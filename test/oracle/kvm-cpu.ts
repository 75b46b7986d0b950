/** The host's KVM as a processor that runs cases. */
import { makeMachine, type TestMachine } from "../hypervisor/kvm/support/kvm-machine.js";
import type { Facilities } from "./cpu-case.js";
import { RAM_SIZE, SeamCpu } from "./seam-cpu.js";

export class KvmCpu extends SeamCpu {
  readonly #machine: TestMachine;

  constructor(facilities: Facilities) {
    const machine = makeMachine({ ram: [[0, RAM_SIZE]] });
    const { vm, vcpu, guestMemory: memory } = machine;
    vcpu.setCpuid(vm.supportedCpuid());
    super(facilities, { name: "KVM", vcpu, memory });
    this.#machine = machine;
  }

  /** Instructions that the software CPU did in KVM's place. */
  get emulationSteps(): number {
    return this.#machine.vcpu.steps;
  }

  close(): void {
    this.#machine.vm.close();
  }
}
