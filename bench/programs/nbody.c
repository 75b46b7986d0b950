/* The Sun and the outer planets as mass points, by a symplectic integrator. */
#include <math.h>
#include <stdio.h>

#define BODIES 5
#define STEPS 2000000
#define DAYS 365.24
#define SOLAR (4 * M_PI * M_PI)

struct body {
  double x, y, z, vx, vy, vz, mass;
};

/* Astronomical units, years, solar masses: positions and velocities per day, as JPL's ephemerides have them. */
static struct body bodies[BODIES] = {
    {0, 0, 0, 0, 0, 0, 1},
    {4.841431442464721, -1.1603200440274284, -0.10362204447112311, 0.001660076642744037, 0.007699011184197404,
     -0.0000690460016972063, 0.0009547919384243266},
    {8.34336671824458, 4.124798564124305, -0.4035234171143214, -0.002767425107268624, 0.004998528012349172,
     0.00002304172975737639, 0.0002858859806661308},
    {12.894369562139131, -15.111151401698631, -0.22330757889265573, 0.002964601375647616, 0.0023784717395948095,
     -0.000029658956854023756, 0.00004366244043351563},
    {15.379697114850917, -25.919314609987964, 0.17925877295037118, 0.0026806777249038932, 0.001628241700382423,
     -0.00009515922545197159, 0.00005151389020466115},
};

static void advance(double dt) {
  for (int i = 0; i < BODIES; i++)
    for (int j = i + 1; j < BODIES; j++) {
      struct body *a = &bodies[i], *b = &bodies[j];
      double dx = a->x - b->x, dy = a->y - b->y, dz = a->z - b->z;
      double square = dx * dx + dy * dy + dz * dz;
      double force = dt / (square * sqrt(square));
      a->vx -= dx * b->mass * force;
      a->vy -= dy * b->mass * force;
      a->vz -= dz * b->mass * force;
      b->vx += dx * a->mass * force;
      b->vy += dy * a->mass * force;
      b->vz += dz * a->mass * force;
    }
  for (int i = 0; i < BODIES; i++) {
    bodies[i].x += dt * bodies[i].vx;
    bodies[i].y += dt * bodies[i].vy;
    bodies[i].z += dt * bodies[i].vz;
  }
}

static double energy(void) {
  double e = 0;
  for (int i = 0; i < BODIES; i++) {
    struct body *a = &bodies[i];
    e += 0.5 * a->mass * (a->vx * a->vx + a->vy * a->vy + a->vz * a->vz);
    for (int j = i + 1; j < BODIES; j++) {
      double dx = a->x - bodies[j].x, dy = a->y - bodies[j].y, dz = a->z - bodies[j].z;
      e -= a->mass * bodies[j].mass / sqrt(dx * dx + dy * dy + dz * dz);
    }
  }
  return e;
}

int main(void) {
  for (int i = 0; i < BODIES; i++) {
    bodies[i].vx *= DAYS;
    bodies[i].vy *= DAYS;
    bodies[i].vz *= DAYS;
    bodies[i].mass *= SOLAR;
  }
  double before = energy();
  for (int i = 0; i < STEPS; i++) advance(0.01);
  printf("%.17g %.17g\n", before, energy());
  return 0;
}
