/** Temporary overlays of disks that outlive a reboot of the guest: the disks are opened anew then, in other Workers. */
import { HostFile } from "../backends/disk/host-file.js";
import type { MachineConfig } from "./config.js";

export class KeptOverlays {
  /** The configuration, in which the overlays are open. */
  readonly config: MachineConfig;
  readonly #files: HostFile[] = [];

  /** Throws `DiskError` where there is no place for an overlay. */
  constructor(config: MachineConfig) {
    // Without a second start each disk makes its own, and takes it away with itself.
    const kept = config.onReboot === "restart";
    const disks = config.disks.map((disk) => {
      if (!kept || disk.spec.cow !== true) return disk;
      const file = HostFile.temporary();
      this.#files.push(file);
      return { ...disk, spec: { ...disk.spec, cow: { descriptor: file.descriptor } } };
    });
    this.config = { ...config, disks };
  }

  close(): void {
    for (const file of this.#files) file.close();
  }
}
