// e^x for a register of floats, at most 2 ulp from the exact value over the whole range: 0 below
// -104, subnormal results included, infinity above 88.73, NaN for NaN.
//
// x = n ln 2 + r with |r| <= ln(2)/2; e^r = 1 + r + r^2 p(r), p of degree 4 fitted to the relative
// error of e^r, which stays under 0.06 ulp before rounding.
[[maybe_unused]] inline vf exp(vf x) {
  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the sum.
  const vf to_integer = splat(12582912.0f);
  // The result is already 0 or infinity at the limits. A NaN passes through min and max.
  x = max(min(x, splat(89.0f)), splat(-104.0f));
  const vf shifted = x * 1.44269504f + to_integer;
  const vf n = shifted - to_integer;
  // ln 2 in two parts; the first has 9 bits, so that n times it is exact.
  vf r = x - n * 0.693359375f;
  r = fma(n, splat(2.12194440e-4f), r);
  vf p = splat(1.38145395e-3f);
  p = fma(p, r, splat(8.36874545e-3f));
  p = fma(p, r, splat(4.16683890e-2f));
  p = fma(p, r, splat(1.66665211e-1f));
  p = fma(p, r, splat(4.99999940e-1f));
  const vf e = fma(p * r, r, r) + 1.0f;
  // 2^n in two factors, because n reaches from -150 to 128.
  const vi exponent = (vi)shifted - (vi)to_integer;
  const vi half = exponent >> 1;
  const vf first = (vf)((half + 127) << 23);
  const vf second = (vf)((exponent - half + 127) << 23);
  return e * first * second;
}
