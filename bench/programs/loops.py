# What an interpreter does: calls, attributes, lists, dictionaries, strings, arithmetic.
class Point:
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x = x
        self.y = y

    def moved(self, dx, dy):
        return Point(self.x + dx, self.y + dy)


def sieve(limit):
    flags = bytearray([1]) * (limit + 1)
    flags[0:2] = b"\0\0"
    for n in range(2, int(limit**0.5) + 1):
        if flags[n]:
            for multiple in range(n * n, limit + 1, n):
                flags[multiple] = 0
    return sum(flags)


def words(count):
    seen = {}
    for i in range(count):
        word = "w%d" % (i * 7919 % 4999)
        seen[word] = seen.get(word, 0) + 1
    return len(seen), max(seen.values()), ",".join(sorted(seen)[:5])


def walk(steps):
    at = Point(0, 0)
    for i in range(steps):
        at = at.moved(i % 4 - 1, i % 5 - 1)
    return at.x, at.y


def collatz(limit):
    best = 0
    for start in range(1, limit):
        n, length = start, 0
        while n != 1:
            n = n // 2 if n % 2 == 0 else 3 * n + 1
            length += 1
        best = max(best, length)
    return best


print(sieve(800000), words(300000), walk(300000), collatz(14000))
