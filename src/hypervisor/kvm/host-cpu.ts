/** Whether the host's processor has hardware virtualization: `flags` of /proc/cpuinfo. */
import { readFileSync } from "node:fs";

const CPUINFO = "/proc/cpuinfo";

/** "vmx" (Intel VT-x), "svm" (AMD-V), or undefined. */
export function hardwareVirtualization(): "vmx" | "svm" | undefined {
  let text: string;
  try {
    text = readFileSync(CPUINFO, "utf8");
  } catch {
    return undefined;
  }
  const flags = /^flags\s*:(.*)$/m.exec(text)?.[1].split(" ") ?? [];
  return flags.includes("vmx") ? "vmx" : flags.includes("svm") ? "svm" : undefined;
}
