/** The /init script of the default guest: the guest's first process, run by busybox's shell. */
import { GUEST_COMMAND_FILE, GUEST_ENVIRONMENT_FILE, GUEST_STATUS_PROGRAM } from "./guest-command.js";
import { MODULE_DIRECTORY, MODULE_ORDER, ROOT_INIT_FILE } from "./root-init.js";

/**
 * Not `exec`ed into the shell: when the shell or the command ends, the machine is powered off, where the end of
 * process 1 would be a kernel panic. `setsid cttyhack` makes the console the controlling terminal, which job control
 * and Ctrl-C need: /dev/console itself cannot be one.
 */
export const GUEST_INIT = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux

mount -t proc proc /proc
mount -t sysfs sysfs /sys
# A kernel without devtmpfs (small ones of developers) still names its devices in /sys.
mount -t devtmpfs devtmpfs /dev || mdev -s
[ -e /bin/ls ] || /bin/busybox --install -s /bin
[ -r ${GUEST_ENVIRONMENT_FILE} ] && . ${GUEST_ENVIRONMENT_FILE}
if [ -r ${MODULE_ORDER} ]; then
  while read -r module; do
    insmod ${MODULE_DIRECTORY}/$module || echo "nlkt: the kernel does not take its module $module" >&2
  done <${MODULE_ORDER}
  # A virtio console was not there when the kernel opened this process's input and output.
  [ -c /dev/hvc0 ] && exec </dev/console >/dev/console 2>&1
fi
[ -r ${ROOT_INIT_FILE} ] && . ${ROOT_INIT_FILE}

mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
hostname nlkt
ip link set lo up

[ -n "$NLKT_ROWS" ] && stty rows "$NLKT_ROWS" columns "$NLKT_COLUMNS"
cd /root

if [ -x ${GUEST_COMMAND_FILE} ]; then
  if [ -n "$NLKT_ROWS" ]; then
    setsid cttyhack ${GUEST_COMMAND_FILE}
  else
    stty -opost
    ${GUEST_COMMAND_FILE} </dev/null
  fi
  status=$?
  # Waits until all output has left (TCSADRAIN).
  stty sane
  # "reboot: Power down" is an emergency to the kernel and no output of the command.
  echo 0 >/proc/sys/kernel/printk
  ${GUEST_STATUS_PROGRAM} $status || echo "nlkt: the kernel lets nobody report the command's status" >&2
else
  # Nobody at the other end is a terminal: the shell is not to ask it for its cursor's position, nor to echo.
  [ -n "$NLKT_ROWS" ] || stty -echo
  setsid cttyhack sh -l
fi
poweroff -f
`;

/**
 * Read by the login shell, and through ENV by shells started from it. Without -f these ask process 1, which is a script
 * and cannot listen while it waits for the shell.
 */
export const GUEST_PROFILE = `export PS1='\\w # ' ENV=/etc/profile
alias poweroff='poweroff -f' reboot='reboot -f' halt='halt -f'
`;
