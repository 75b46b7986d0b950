/** What a kernel's log may hold that is booted on NLKT. */

/** Warnings of a kernel that was not given the time to run, on any machine. */
const HOST_WAS_BUSY = [
  /^hrtimer: interrupt took \d+ ns/,
  /^workqueue: \S+ hogged CPU/,
  /^clocksource: Long readout interval/,
];

/** Lines that read like complaints and are none. */
const HARMLESS: readonly RegExp[] = [
  // The machine has no SMBIOS tables and claims none.
  /^DMI not present or invalid\.$/,
  // Always said.
  /^PCI: Using host bridge windows from ACPI; if necessary, use "pci=nocrs" and report a bug$/,
  /^AMD-Vi: AMD IOMMUv2 functionality not available on this system - This is not a bug\.$/,
  /^iommu: DMA domain TLB invalidation policy/,
];

const COMPLAINT =
  /\bBUG\b|WARNING|unchecked MSR|\bfirmware\b|\bbug\b|\bfail|\berror\b|\bunable\b|\binvalid|\bunexpected|\bcannot\b|could not|not found|broken|Call Trace|spurious|timed out|timeout/i;

/** KERN_WARNING; smaller is worse (Linux, include/linux/kern_levels.h). */
const WARNING = 4;

/** The lines of `dmesg -r` that a kernel should not have printed. */
export function complaints(log: readonly string[]): string[] {
  return log.filter((line) => {
    const match = /^<(\d+)>\[ *[\d.]+\] (.*)$/.exec(line);
    // Lines that go on after a line break have no prefix.
    const level = match === null ? WARNING + 1 : Number(match[1]) & 7;
    const text = match?.[2] ?? line;
    if (level > WARNING && !COMPLAINT.test(text)) return false;
    return ![...HOST_WAS_BUSY, ...HARMLESS].some((allowed) => allowed.test(text));
  });
}

/** What the machine has, as kernels report it. */
export const HARDWARE: readonly RegExp[] = [
  /tsc: Detected 1000\.000 MHz processor/,
  /IOAPIC\[0\]: apic_id 0, version 32, address 0xfec00000, GSI 0-23/,
  /ACPI: PM: \(supports S0 S5\)/,
  /PCI host bridge to bus 0000:00/,
  /ttyS0 at I\/O 0x3f8 \(irq = 4, base_baud = 115200\) is a 16550A/,
  /ttyS1 at I\/O 0x2f8 \(irq = 3, base_baud = 115200\) is a 16550A/,
  /ttyS2 at I\/O 0x3e8 \(irq = 4, base_baud = 115200\) is a 16550A/,
  /ttyS3 at I\/O 0x2e8 \(irq = 3, base_baud = 115200\) is a 16550A/,
  /serio: i8042 KBD port at 0x60,0x64 irq 1/,
  /serio: i8042 AUX port at 0x60,0x64 irq 12/,
  /input: AT Translated Set 2 keyboard/,
  /rtc_cmos .*: registered as rtc0/,
  /random: crng init done/,
];
