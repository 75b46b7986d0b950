# fork, exec, exit, signals and pipes, many of each.
exec 2>/dev/null # dash tells of killed processes, or not, as it happens
i=0; while [ $i -lt 150 ]; do /bin/true || echo failed; i=$((i+1)); done; echo "$i processes"
i=0; n=0; while [ $i -lt 60 ]; do n=$((n + $(echo $i | cat | cat))); i=$((i+1)); done; echo "sum $n"
seq 1 120 | xargs -P 8 -n 1 sh -c 'exit $(( $0 % 7 == 0 ))'; echo "xargs $?"
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do (for j in 1 2 3 4 5; do (exit $j); echo $?; done | sort -n | tr '\n' ' ') & done; wait; echo
sleep 100 & a=$!; sleep 100 & b=$!; kill -STOP $a; kill -CONT $a; kill -TERM $a $b; wait $a; echo $?; wait $b; echo $?
mkfifo fifo; (i=0; while [ $i -lt 500 ]; do echo "line $i"; i=$((i+1)); done > fifo) & sha256sum < fifo
yes | head -c 3000000 | md5sum
find /usr/share /etc -type f 2>/dev/null | wc -l >/dev/null; echo "find $?"
timeout 0.3 sh -c 'while :; do :; done'; echo "timeout $?"
