/** The provider that the guests run on: the software CPU, or with NLKT_GUESTS=kvm the host's KVM. */
import { test as nodeTest } from "node:test";
import { leftOut } from "./limits.js";
import type { Provider } from "./machine.js";

const KVM = process.env.NLKT_GUESTS === "kvm";

export interface GuestProvider extends Provider {
  close(): void;
}

const make = KVM
  ? (await import("./kvm-provider.js")).kvmProvider
  : (await import("./soft-provider.js")).softProvider;

export function guestProvider(cpus = 1): GuestProvider {
  return make(cpus);
}

/** node:test's, without what the host's KVM cannot do. */
export function test(name: string, body: () => void | Promise<void>): void {
  const skip = KVM ? leftOut(name) : undefined;
  void nodeTest(name, skip === undefined ? {} : { skip }, body);
}
