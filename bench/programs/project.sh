# A small C project: 10 files and a program of them. What is measured is `make -j2`.
mkdir project && cd project || exit 1
objects=
for n in $(seq 10); do
  objects="$objects part$n.o"
  {
    echo '#include <stdio.h>'
    echo '#include <stdlib.h>'
    echo '#include <string.h>'
    for f in $(seq 12); do
      echo "static unsigned f$f(unsigned a, const unsigned char *s, size_t n) {
        for (size_t i = 0; i < n; i++) {
          switch ((s[i] + a) % 7) {
            case 0: a += s[i] * ${f}u; break;
            case 1: a ^= a << ($f % 13 + 1); break;
            case 2: a = (a >> 3) | (a << 29); break;
            case 3: a -= i * ${n}u; break;
            case 4: if (a & 64) a *= 33; else a += 7; break;
            default: a = a * 2654435761u + $f;
          }
        }
        return a;
      }"
    done
    echo "unsigned part$n(const char *text) { unsigned a = $n; size_t n = strlen(text);"
    for f in $(seq 12); do echo "a = f$f(a, (const unsigned char *)text, n);"; done
    echo 'return a; }'
  } >part$n.c
done
{
  echo '#include <stdio.h>'
  for n in $(seq 10); do echo "unsigned part$n(const char *);"; done
  echo 'int main(void) { unsigned a = 0;'
  for n in $(seq 10); do echo "a += part$n(\"the quick brown fox\");"; done
  echo 'printf("%u\n", a); return 0; }'
} >main.c
printf 'program: main.o%s\n\tgcc -o program $^\n%%.o: %%.c\n\tgcc -O2 -c $<\n' "$objects" >Makefile
from=$EPOCHREALTIME
make -j2 >/dev/null || exit 1
to=$EPOCHREALTIME
echo $((${to/./} - ${from/./})) >"$MEASURED"
./program
