exec 2>/dev/null # bash tells of killed processes with their numbers
# bash: arithmetic, arrays, strings, patterns, functions, pipes, traps. printf %f and %a of bash use long double.
echo $(( 7 ** 20 )) $(( -7 / 2 )) $(( -7 % 3 )) $(( 1 << 62 )) $(( 0x7fffffffffffffff + 1 )) $(( 16#ff ^ 2#1010 ))
declare -A map
for word in alpha beta gamma delta; do map[$word]=${#word}; done
for key in $(printf '%s\n' "${!map[@]}" | sort); do echo "$key=${map[$key]}"; done
list=({1..200}); echo "${#list[@]} ${list[@]:50:5} ${list[-1]}"
text="The quick brown fox jumps over the lazy dog"
echo "${text^^} ${text//o/0} ${text#* } ${text##* } ${text:4:5} ${text/%dog/cat}"
[[ $text =~ ([a-z]+)\ ([a-z]+)$ ]] && echo "${BASH_REMATCH[1]} ${BASH_REMATCH[2]}"
printf '%d %o %x %e %g %.10f %a\n' 42 42 255 12345.6789 0.0001 3.14159265358979 0.1
printf '%.19g %.19g %.20f %a\n' 0.1 1e4000 1.5e-5 3
fib() { if (( $1 < 2 )); then echo "$1"; else echo $(( $(fib $(($1-1))) + $(fib $(($1-2))) )); fi; }
fib 7
primes=(); for (( n = 2; n < 300; n++ )); do
  for p in "${primes[@]}"; do (( p * p > n )) && break; (( n % p == 0 )) && continue 2; done
  primes+=("$n"); done
echo "${primes[@]}"
trap 'echo caught USR1' USR1; kill -USR1 $$
trap 'echo leaving' EXIT
( exit 7 ); echo "status $?"
sh -c 'kill -SEGV $$' 2>/dev/null; echo "status $?"
sh -c 'kill -9 $$' 2>/dev/null; echo "status $?"
sleep 9 & pid=$!; sleep 0.5; kill $pid; wait $pid; echo "status $?"
coproc cat; echo through a coprocess >&${COPROC[1]}; read -r line <&${COPROC[0]}; echo "$line"
diff <(seq 1 10) <(seq 2 11)
while read -r a b; do echo "$b $a"; done <<< $'1 one\n2 two'
seq 1 20000 | while read -r n; do [ $(( n % 4000 )) = 0 ] && echo "$n"; done
for i in {1..40}; do /bin/true; echo -n "$? "; done; echo
echo a{b,c{1..3}}d *.none; shopt -s nullglob; echo *.none
IFS=:; set -- a:b:c; set -- $1; echo "$# $2"
