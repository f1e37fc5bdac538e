/** Numbers as people read them; U+2212 for minus, as wide as the plus sign. */

const grouped = new Intl.NumberFormat("en-US");

export const whole = (value: number): string => grouped.format(value);

const minus = (text: string): string => text.replaceAll("-", "−");

/** Three significant digits of a size. */
export function digits(value: number): string {
  if (value === 0) return "0";
  if (value >= 1e5 || value < 1e-3) return minus(value.toExponential(2).replace("e+", "e"));
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

export function signed(score: number): string {
  if (score === 0) return "0";
  return `${score > 0 ? "+" : "−"}${digits(Math.abs(score))}`;
}

/** A number in words (or several), with the minus sign of the other numbers. */
export const decimal = (text: string): string => minus(text);

export const share = (probability: number): string => probability.toFixed(2);

/** A damping stop without idle zeros. */
export const damping = (value: number): string => `${Number(value.toPrecision(3))}`;

/** Two significant digits. */
export function ratio(value: number): string {
  const rounded = Number(value.toPrecision(2));
  if (rounded >= 1e6 || (rounded > 0 && rounded < 1e-3)) {
    return minus(rounded.toExponential().replace("e+", "e"));
  }
  return new Intl.NumberFormat("en-US", { maximumSignificantDigits: 2 }).format(rounded);
}

export function seconds(value: number): string {
  if (value < 0.05) return "under 0.1 s";
  return value < 10 ? `${value.toFixed(1)} s` : `${whole(Math.round(value))} s`;
}
