/** nlkt list: the running instances. */
import { Command } from "commander";
import { type InstanceInfo, instances, type UnresponsiveInstance } from "../api/index.js";
import { formatMiB } from "../machine/memory-map.js";
import { table } from "./table.js";

const EXAMPLES = `
Examples:
  nlkt list
  nlkt list --json | jq -r '.[] | select(.state == "paused") | .name'`;

const TITLES = ["NAME", "PID", "STATE", "ACCEL", "CPUS", "MEMORY", "UPTIME", "KERNEL"];
const NUMBERS = ["PID", "CPUS", "MEMORY", "UPTIME"];

export function listCommand(): Command {
  return new Command("list")
    .description("list your running instances")
    .option("-i, --run", "only running instances, which is the default")
    .option("--json", "as JSON")
    .addHelpText("after", EXAMPLES)
    .action(async ({ json }: { json?: boolean }) => {
      const all = await instances.list();
      process.stdout.write(
        json === true ? `${JSON.stringify(all, null, 2)}\n` : table(TITLES, all.map(row), NUMBERS),
      );
    });
}

function row(instance: InstanceInfo | UnresponsiveInstance): string[] {
  if (instance.state === "unresponsive") return [instance.name, "", instance.state, "", "", "", "", ""];
  const { name, pid, state, accel, cpus, memoryBytes, uptimeSeconds, kernel } = instance;
  return [
    name,
    `${pid}`,
    state,
    accel,
    `${cpus}`,
    formatMiB(memoryBytes),
    formatUptime(uptimeSeconds),
    kernel,
  ];
}

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** `42 s`, `5:07`, `3:05:07` or `2 d 3:05:07`. */
export function formatUptime(seconds: number): string {
  const whole = Math.floor(seconds);
  if (whole < MINUTE) return `${whole} s`;
  const two = (value: number) => `${value}`.padStart(2, "0");
  const minutes = Math.floor((whole % HOUR) / MINUTE);
  const rest = two(whole % MINUTE);
  if (whole < HOUR) return `${minutes}:${rest}`;
  const clock = `${Math.floor((whole % DAY) / HOUR)}:${two(minutes)}:${rest}`;
  return whole < DAY ? clock : `${Math.floor(whole / DAY)} d ${clock}`;
}
