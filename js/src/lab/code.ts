/** What "Explain a model…" asks for, and the cell that it writes. */

export interface Names {
  model: string;
  train_set: string;
  test_set: string;
}

export const DEFAULT_NAMES: Names = {
  model: "model",
  train_set: "train_set",
  test_set: "test_set",
};

/** Whether Python takes it as an expression: a name, an attribute, an item. Nothing is run here. */
export const isExpression = (text: string): boolean => /^[\p{L}_][\p{L}\p{N}_.[\]'"]*$/u.test(text);

export function explainCode({ model, train_set, test_set }: Names): string {
  return `from relatif_widgets import Explainer, ExplanationWidget

# Once: every training example's gradient, in the eigenbasis of the curvature.
# The sets hold (input, target) pairs, without random augmentation.
explainer = Explainer(${model}, ${train_set}).fit()

# Click a test example: which training examples taught the model its answer?
ExplanationWidget(explainer, ${test_set})`;
}

/** Names of variables in the kernel that could be meant, as an expression that Python evaluates. */
export const CANDIDATES = `__import__("json").dumps((lambda torch, every: {
  "model": [name for name, value in every if torch and isinstance(value, torch.nn.Module)],
  "sets": [name for name, value in every if hasattr(value, "__getitem__") and hasattr(value, "__len__")
           and not isinstance(value, (str, bytes, type)) and (torch and isinstance(value, torch.utils.data.Dataset)
           or isinstance(value, tuple) and len(value) == 2 and all(hasattr(part, "shape") for part in value)
           or type(value).__module__.startswith("datasets."))],
})(__import__("sys").modules.get("torch"), [(name, value) for name, value in list(globals().items())
  if not name.startswith("_")]))`.replace(/\n\s*/g, " ");

export interface Candidates {
  model: string[];
  sets: string[];
}

/** The kernel's answer; nothing where it is none. */
export function readCandidates(value: unknown): Candidates {
  const nothing = { model: [], sets: [] };
  try {
    const text = (value as { data: { "text/plain": string } }).data["text/plain"];
    // Python shows a str with its quotes; names hold neither quotes nor backslashes.
    const read: unknown = JSON.parse(text.slice(1, -1));
    const { model, sets } = read as { model: unknown; sets: unknown };
    return { model: strings(model), sets: strings(sets) };
  } catch {
    return nothing;
  }
}

/** What the dialog starts with: the only candidate, or the usual name. */
export function guess({ model, sets }: Candidates): Names {
  const named = (part: string, taken?: string): string | undefined =>
    sets.find((name) => name !== taken && name.toLowerCase().includes(part));
  const train_set = named("train") ?? DEFAULT_NAMES.train_set;
  const test_set = named("test") ?? named("val", train_set) ?? DEFAULT_NAMES.test_set;
  const usual = model.find((name) => name === DEFAULT_NAMES.model);
  return { model: usual ?? model[0] ?? DEFAULT_NAMES.model, train_set, test_set };
}

const strings = (value: unknown): string[] =>
  Array.isArray(value) ? value.filter((one): one is string => typeof one === "string") : [];
