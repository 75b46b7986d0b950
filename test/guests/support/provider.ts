/** The provider that the guests run on: the software CPU, or with NLKT_GUESTS=kvm the host's KVM. */
import type { Provider } from "./machine.js";

export const KVM = process.env.NLKT_GUESTS === "kvm";

export interface GuestProvider extends Provider {
  close(): void;
}

const make = KVM
  ? (await import("./kvm-provider.js")).kvmProvider
  : (await import("./soft-provider.js")).softProvider;

export function guestProvider(cpus = 1): GuestProvider {
  return make(cpus);
}
