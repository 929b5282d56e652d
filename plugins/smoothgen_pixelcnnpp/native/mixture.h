/* Drawing from a pixel's mixture of logistics: what PixelDistribution does. In double throughout. */
#pragma once
#include "plan.h"

#define LOG_SCALE_BOUND 7.0

INLINE double log_sigmoid(double z) { return z < 0 ? z - log1p(exp(z)) : -log1p(exp(-z)); }

INLINE double tail_at(double x, const double *weight, const double *loc, const double *slope, long count,
                      double *derivative) {
  double tail = 0, change = 0;
  for (long k = 0; k < count; k++) {
    double below = sigmoid_double((x - loc[k]) * slope[k]);
    tail += weight[k] * below;
    change += weight[k] * slope[k] * (below - below * below);
  }
  *derivative = change;
  return tail;
}

/* The x whose smaller tail has this log mass: Newton on the log of the tail, kept inside a bracket that shrinks. */
static double quantile(double logit_u, const double *weight, const double *loc, const double *inverse, double *slope,
                       long count) {
  double low = HUGE_VAL, high = -HUGE_VAL;
  for (long k = 0; k < count; k++) {
    double own = loc[k] + logit_u / inverse[k];
    low = own < low ? own : low;
    high = own > high ? own : high;
  }
  int bottom = logit_u <= 0;
  double log_tail = -fabs(logit_u);
  log_tail -= log1p(exp(log_tail));
  for (long k = 0; k < count; k++) slope[k] = bottom ? inverse[k] : -inverse[k];
  double x = 0.5 * (low + high), size = high - low;
  for (int step = 0; step < 200; step++) {
    double change, tail = tail_at(x, weight, loc, slope, count, &change);
    double off = log(tail) - log_tail;
    if ((off > 0) == bottom) high = x; else low = x;
    double moved = x - off * tail / change;
    if (!(moved > low && moved < high) || fabs(moved - x) > 0.7 * size) moved = 0.5 * (low + high);
    size = fabs(moved - x);
    x = moved;
    if (size <= 1e-14 * (fabs(low) + fabs(high)) || size == 0) break;
  }
  return x;
}

static long quantile_level(const Plan *p, double logit_u, const double *weight, const double *loc,
                           const double *inverse, long count) {
  double wanted = sigmoid_double(logit_u), change;
  long low = 0, high = p->discrete_levels - 1; /* the answer is in low .. high */
  while (low < high) {
    long middle = (low + high) / 2;
    double edge = p->low + (middle + 0.5) * p->bin_width;
    if (tail_at(edge, weight, loc, inverse, count, &change) < wanted) low = middle + 1; else high = middle;
  }
  return low;
}

static double log_component(const Plan *p, double x, double y, double loc, double log_scale, double shift, double unit) {
  if (!p->discrete_levels) {
    double z = (y - loc) * exp(-log_scale);
    return 2.0 * log_sigmoid(z) - z - log_scale;
  }
  long level = lrint((x - p->low) / p->bin_width);
  double inverse = exp(-log_scale) / unit, centre = shift + unit * loc;
  int first = level <= 0, last = level >= p->discrete_levels - 1;
  double a = (p->low + (level + 0.5) * p->bin_width - centre) * inverse;
  double b = (p->low + (level - 0.5) * p->bin_width - centre) * inverse;
  double total = 0;
  if (!last) total += log_sigmoid(a);
  if (!first) total += log_sigmoid(-b);
  if (!first && !last) total += log(-expm1(b - a));
  return total;
}

/* Channel by channel through the inverse CDF, as PixelDistribution.draw. room: 6 K doubles. */
static void draw(const Plan *p, const real *raw, const real *logit_u, const unsigned char *known, const real *values,
                 real *x_out, real *y_out, double *room) {
  long K = p->components, C = p->channels;
  double *logits = room, *weight = room + K, *loc = room + 2 * K, *log_scale = room + 3 * K;
  double *inverse = room + 4 * K, *slope = room + 5 * K;
  for (long k = 0; k < K; k++) logits[k] = raw[k];
  for (long c = 0; c < C; c++) {
    double shift = p->shift[c], unit = p->unit[c], most = -HUGE_VAL, sum = 0;
    const real *scales = raw + (1 + C + c) * K;
    for (long k = 0; k < K; k++) {
      loc[k] = raw[(1 + c) * K + k];
      for (long e = 0; e < c; e++)
        loc[k] += tanh((double)raw[(1 + 2 * C + c * (c - 1) / 2 + e) * K + k]) * (double)y_out[e];
      log_scale[k] = LOG_SCALE_BOUND * tanh(scales[k] / LOG_SCALE_BOUND);
      inverse[k] = exp(-log_scale[k]);
      most = logits[k] > most ? logits[k] : most;
    }
    for (long k = 0; k < K; k++) sum += weight[k] = exp(logits[k] - most);
    for (long k = 0; k < K; k++) weight[k] /= sum;
    double x;
    if (known && known[c]) {
      x = values[c];
    } else if (p->discrete_levels) {
      for (long k = 0; k < K; k++) slope[k] = shift + unit * loc[k], inverse[k] /= unit;
      x = p->level_values[quantile_level(p, logit_u[c], weight, slope, inverse, K)];
    } else {
      x = shift + unit * quantile(logit_u[c], weight, loc, inverse, slope, K);
    }
    x_out[c] = (real)x;
    y_out[c] = (real)(((double)x_out[c] - shift) / unit);
    if (c < C - 1)
      for (long k = 0; k < K; k++) logits[k] += log_component(p, x_out[c], y_out[c], loc[k], log_scale[k], shift, unit);
  }
}
