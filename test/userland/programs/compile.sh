# gcc and g++ compile, link and run; what they make is the same, byte by byte, wherever they run.
cat > hello.c <<'C'
#include <stdio.h>
int main(void) { double x = 1; for (int i = 1; i < 20; i++) x = x * i / 3 + 0.1L; printf("hello %.17g\n", x); return 3; }
C
gcc -O2 hello.c -o hello && ./hello; echo "status $?"; sha256sum hello
gcc -O2 -S hello.c -o - | sha256sum
for options in '-O2 -fwrapv' '-O0 -g -fwrapv' '-O3 -march=x86-64-v2 -fwrapv -static'; do
  gcc $options /nlkt/integers.c -o integers || exit 1
  sha256sum integers; ./integers
done
gcc -O2 -w -frounding-math /nlkt/fenv.c -o fenv -lm && ./fenv | sha256sum
gcc -O2 -c /nlkt/libm.c -o libm.o && gcc libm.o -o libm -lquadmath -lm && ./libm | sha256sum; sha256sum libm.o
g++ -O1 /nlkt/objects.cc -o objects && ./objects; sha256sum objects
echo 'int main(){return x;}' | gcc -xc - 2>&1; echo "status $?"
printf 'all: a.o b.o\n\tgcc -o all a.o b.o\n\t./all\na.c:\n\techo "int f(int); int main(){return f(3)-12;}" > a.c\nb.c:\n\techo "int f(int x){return x*4;}" > b.c\n' > Makefile
make -j2 2>&1 | sort; ar rcs lib.a b.o; nm lib.a; objdump -d b.o | tail -12; size all; strip all; readelf -h all | head -12
