// C++: exceptions over many frames, threads that throw, containers, streams, regular expressions, random numbers.
#include <algorithm>
#include <atomic>
#include <complex>
#include <future>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

struct Guard {
  int &count;
  explicit Guard(int &c) : count(c) { count++; }
  ~Guard() { count--; }
};
static int deep(int n, int &count) {
  Guard guard(count);
  if (n == 0) throw std::runtime_error("bottom");
  return deep(n - 1, count) + 1;
}
struct Shape {
  virtual ~Shape() = default;
  virtual double area() const = 0;
};
struct Circle : Shape {
  double r;
  explicit Circle(double x) : r(x) {}
  double area() const override { return 3.14159265358979 * r * r; }
};
struct Square : Shape {
  double s;
  explicit Square(double x) : s(x) {}
  double area() const override { return s * s; }
};

int main() {
  int count = 0, caught = 0;
  for (int i = 0; i < 50; i++) try {
      deep(i, count);
    } catch (const std::runtime_error &) {
      caught++;
    }
  std::cout << caught << ' ' << count << '\n';
  std::vector<std::future<long>> futures;
  for (int i = 0; i < 6; i++)
    futures.push_back(std::async(std::launch::async, [i]() -> long {
      std::vector<long> v(1000);
      std::iota(v.begin(), v.end(), i);
      if (i == 4) throw std::out_of_range("four");
      return std::accumulate(v.begin(), v.end(), 0L);
    }));
  for (auto &f : futures) try {
      std::cout << f.get() << ' ';
    } catch (const std::exception &e) {
      std::cout << e.what() << ' ';
    }
  std::mt19937_64 random(42);
  std::normal_distribution<double> normal(0, 1);
  std::vector<double> values(3000);
  for (auto &v : values) v = normal(random);
  std::sort(values.begin(), values.end());
  std::cout << '\n' << std::setprecision(17) << values[0] << ' ' << values[1500] << ' ' << std::accumulate(values.begin(), values.end(), 0.0L) << '\n';
  std::unordered_map<std::string, int> words;
  std::istringstream stream("the cat and the dog and the bird 1.5e3 0x1f");
  for (std::string w; stream >> w;) words[w]++;
  for (const auto &[w, n] : std::map<std::string, int>(words.begin(), words.end())) std::cout << w << '=' << n << ' ';
  std::regex pattern(R"((\w+)@(\w+)\.com)");
  std::string text = "write to ann@example.com, bob@test.com or carol@nowhere.org";
  for (std::sregex_iterator i(text.begin(), text.end(), pattern), end; i != end; ++i) std::cout << (*i)[1] << " at " << (*i)[2] << ' ';
  std::vector<std::unique_ptr<Shape>> shapes;
  for (int i = 1; i < 20; i++) shapes.push_back(i % 2 ? std::unique_ptr<Shape>(new Circle(i / 3.0)) : std::unique_ptr<Shape>(new Square(i)));
  double area = 0;
  for (const auto &s : shapes) area += s->area();
  std::complex<double> z(0.3, 0.5);
  for (int i = 0; i < 100; i++) z = std::sin(z) * std::complex<double>(1.01, 0.2);
  std::cout << '\n' << area << ' ' << z << ' ' << std::hexfloat << std::log(z) << ' ' << 0.1L << '\n';
  std::atomic<long> total{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; i++) threads.emplace_back([&total, i] { for (int j = 0; j < 5000; j++) total += i; });
  for (auto &t : threads) t.join();
  std::cout << std::dec << total << '\n';
}
