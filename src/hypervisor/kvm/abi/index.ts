/** The ABI of /dev/kvm on x86-64: numbers, structures, constants. Part of the package's export `nlkt/kvm`. */
export * from "./constants.js";
export { Ioctl } from "./ioctls.js";
export * from "./struct.js";
export * from "./structs.js";
