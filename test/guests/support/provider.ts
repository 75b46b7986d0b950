/**
 * The provider that the guests run on: the one place to change for another. A provider for guests is `Provider` of
 * machine.ts: a Vm with RAM_BYTES of RAM at 0, its first vCPU, and a watchdog.
 */
export { type SoftProvider as GuestProvider, softProvider as guestProvider } from "./soft-provider.js";
