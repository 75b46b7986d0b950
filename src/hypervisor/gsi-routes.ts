/** The interrupt routes that a PC starts with; each provider sets them where the machine has not set others. */
import type { IrqRoute } from "./seam.js";

/** Pins of the one IOAPIC (82093AA data sheet). */
const IOAPIC_PINS = 24;
const PIC_PINS = 8;
const ISA_IRQS = 16;
const PIT_GSI = 0;
const CASCADE_GSI = 2;

/**
 * The table of a PC: GSIs 0 to 15 to both kinds of controller and 16 to 23 to the IOAPIC. The PIT's GSI 0 is IOAPIC pin
 * 2 (MADT override), and GSI 2, the cascade, is not routed.
 */
export function defaultRoutes(): IrqRoute[] {
  const routes: IrqRoute[] = [];
  for (let gsi = 0; gsi < IOAPIC_PINS; gsi++) {
    if (gsi === CASCADE_GSI) continue;
    if (gsi < ISA_IRQS) {
      const chip = gsi < PIC_PINS ? "pic-master" : "pic-slave";
      routes.push({ gsi, type: "irqchip", chip, pin: gsi % PIC_PINS });
    }
    routes.push({ gsi, type: "irqchip", chip: "ioapic", pin: gsi === PIT_GSI ? CASCADE_GSI : gsi });
  }
  return routes;
}
