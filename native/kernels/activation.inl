// Pointwise functions on vectors. Included once per ISA, inside its namespace. max and min return their second operand
// where one is NaN, so x stands second and NaN goes through.

// e^x: 2^n * p(r) with n = round(x log2 e); relative error below 2e-7 for x in [-87, 88], clamped outside.
inline Vec exp(Vec x) {
  x = min(splat(88.0f), max(splat(-87.0f), x));
  const Vec n = round(mul(x, splat(1.44269504f)));
  Vec r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  Vec p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, mul(r, r), add(r, splat(1.0f)));
  return mul(p, exp2_integral(n));
}

inline Vec sigmoid(Vec x) { return div(splat(1.0f), add(splat(1.0f), exp(sub(splat(0.0f), x)))); }

// tanh|x| = 1 - 2 / (e^2|x| + 1): absolute error below 2e-7.
inline Vec tanh(Vec x) {
  const Vec a = min(splat(10.0f), abs(x));
  const Vec far = sub(splat(1.0f), div(splat(2.0f), add(exp(add(a, a)), splat(1.0f))));
  return copy_sign(far, x);
}

// erf by Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
inline Vec erf(Vec x) {
  const Vec a = abs(x);
  const Vec t = div(splat(1.0f), fma(a, splat(0.3275911f), splat(1.0f)));
  Vec p = splat(1.061405429f);
  p = fma(p, t, splat(-1.453152027f));
  p = fma(p, t, splat(1.421413741f));
  p = fma(p, t, splat(-0.284496736f));
  p = fma(p, t, splat(0.254829592f));
  const Vec e = exp(sub(splat(0.0f), mul(a, a)));
  return copy_sign(sub(splat(1.0f), mul(mul(p, t), e)), x);
}

__attribute__((noinline)) Vec activate(Vec x, Activation kind, float a, float b) {
  const Vec zero = splat(0.0f);
  switch (kind) {
    case Activation::none: return x;
    case Activation::relu: return max(zero, x);
    case Activation::clamp: return min(splat(b), max(splat(a), x));
    case Activation::leaky_relu: return fma(min(zero, x), splat(a), max(zero, x));
    case Activation::hardswish:
      return mul(x, mul(min(max(add(x, splat(3.0f)), zero), splat(6.0f)), splat(1.0f / 6.0f)));
    case Activation::sigmoid: return sigmoid(x);
    case Activation::tanh: return tanh(x);
    case Activation::silu: return mul(x, sigmoid(x));
    case Activation::gelu: return mul(mul(x, splat(0.5f)), add(splat(1.0f), erf(mul(x, splat(0.70710678f)))));
    case Activation::gelu_tanh: {
      const Vec inner = mul(splat(0.79788456f), fma(mul(x, mul(x, x)), splat(0.044715f), x));
      return mul(mul(x, splat(0.5f)), add(splat(1.0f), tanh(inner)));
    }
  }
  return x;
}
