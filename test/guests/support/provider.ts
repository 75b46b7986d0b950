/** The provider that the guests run on: the software CPU, or with NLKT_GUESTS=kvm the host's KVM. */
import { writeSync } from "node:fs";
import { test as nodeTest } from "node:test";
import { noKvm } from "../../hypervisor/kvm/support/kvm-machine.js";
import { leftOut } from "./limits.js";
import type { Provider } from "./machine.js";

export const KVM = process.env.NLKT_GUESTS === "kvm";

export interface GuestProvider extends Provider {
  close(): void;
}

const make = KVM
  ? (await import("./kvm-provider.js")).kvmProvider
  : (await import("./soft-provider.js")).softProvider;

export function guestProvider(cpus = 1): GuestProvider {
  // All tests are skipped then.
  if (KVM && noKvm !== false) return { close() {} } as GuestProvider;
  return make(cpus);
}

/** With NLKT_GUESTS_TRACE=1 each test's name is printed before it runs: one that hangs inside KVM_RUN ends no other way. */
const TRACE = process.env.NLKT_GUESTS_TRACE === "1";

function traced(name: string, body: () => void | Promise<void>): () => void | Promise<void> {
  return () => {
    writeSync(2, `test: ${name}\n`);
    return body();
  };
}

/** node:test's own on the software CPU, so that reports name the files; on KVM without what the host cannot do. */
export const test: (name: string, body: () => void | Promise<void>) => void = KVM
  ? (name, body) => {
      const skip = noKvm === false ? leftOut(name) : noKvm;
      void nodeTest(name, skip === undefined ? {} : { skip }, TRACE ? traced(name, body) : body);
    }
  : nodeTest;
