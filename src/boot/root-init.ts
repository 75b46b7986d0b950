/**
 * What /init of the initramfs does where the guest's root file system is on a disk: wait for the device, mount it, hand over to
 * its init. The kernel's own parameters are obeyed as the kernel itself does (Linux,
 * Documentation/admin-guide/kernel-parameters.txt: init, root, rootfstype, rootflags, rootdelay, rootwait, ro, rw).
 */
import { shellQuote } from "./guest-command.js";

export const MODULE_DIRECTORY = "/nlkt/modules";
/** Names of files in `MODULE_DIRECTORY`, a line each, in their order. */
export const MODULE_ORDER = `${MODULE_DIRECTORY}/order`;
export const ROOT_INIT_FILE = "/nlkt/root-init";

export interface RootInit {
  /** The device, where the host knows it; else it is found in the guest. */
  readonly device?: string;
  /** The file system's type, where it is known. */
  readonly type?: string;
  /** Nobody asked for it: where there is no init on it, the guest goes on without. */
  readonly optional: boolean;
}

const SECONDS_TO_WAIT = 10;

/** The script, which /init reads (`.`): its positional parameters are those for the root's init. */
export function rootInitScript({ device = "", type = "", optional }: RootInit): string {
  return `device=${shellQuote(device)} type=${shellQuote(type)} optional=${optional ? "yes" : ""}
root= init= flags= mode=ro delay= wait=
for word in $(cat /proc/cmdline); do
  case $word in
    root=*) root=\${word#root=} ;;
    init=*) init=\${word#init=} ;;
    rootfstype=*) type=\${word#rootfstype=} ;;
    rootflags=*) flags=,\${word#rootflags=} ;;
    rootdelay=*) delay=\${word#rootdelay=} ;;
    rootwait*) wait=yes ;;
    ro | rw) mode=$word ;;
    --) break ;;
  esac
done
# The last root= counts; the host looked at the same one.
[ -n "$device" ] || case $root in
  UUID=* | LABEL=*) device= ;;
  /dev/*) device=$root ;;
esac

fail() {
  echo "nlkt: $1" >&2
  # To somebody at a terminal a shell is of more use than a kernel panic.
  [ -n "$NLKT_ROWS" ] && setsid cttyhack sh -l
  exit 1
}

[ -n "$delay" ] && sleep "$delay"
tries=0
until [ -n "$device" ] && [ -b "$device" ]; do
  [ -n "$device" ] || device=$(findfs "$root" 2>/dev/null)
  [ -n "$device" ] && [ -b "$device" ] && break
  tries=$((tries + 1))
  [ -z "$wait" ] && [ $tries -gt ${SECONDS_TO_WAIT * 20} ] && fail "the root device \${device:-$root} does not appear"
  sleep 0.05
done

mkdir -p /nlkt/newroot
mount \${type:+-t "$type"} -o "$mode$flags" "$device" /nlkt/newroot || fail "cannot mount $device as root"

# As the kernel looks for one (init/main.c, kernel_init). Links may be absolute: they are not followed here.
found=
for file in \${init:-/sbin/init /etc/init /bin/init /bin/sh}; do
  if [ -e "/nlkt/newroot$file" ] || [ -L "/nlkt/newroot$file" ]; then
    found=$file
    break
  fi
done
if [ -n "$found" ]; then
  for directory in dev sys proc; do
    if [ -d "/nlkt/newroot/$directory" ]; then
      mount --move "/$directory" "/nlkt/newroot/$directory"
    else
      umount -l "/$directory"
    fi
  done
  exec switch_root -c /dev/console /nlkt/newroot "$found" "$@"
fi
[ -n "$optional" ] || fail "no init on $device"
umount /nlkt/newroot
echo "nlkt: there is no init on $device: this is a shell beside it" >&2
`;
}
