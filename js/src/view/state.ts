import type { Method, Sign } from "../explanation";
import type { Status, StripQuestion } from "../messages";

/** Where the controls stand, and what the person has marked. */
export interface ViewState {
  method: Method;
  /** Methods in rows beside it. */
  compare: Method[];
  k: number;
  damping: number;
  sign: Sign;
  labels: string[];
  /** The test example asked for; it runs ahead of the document while one is prepared. */
  query: number | null;
  /** Training indices, in the order of selection. */
  selection: number[];
  /** Tags by training index. */
  tags: Record<string, string[]>;
  /** The training example whose like are shown. */
  like: number | null;
  /** Whether check by retraining is on offer. */
  can_check: boolean;
}

export type Commit = Partial<Omit<ViewState, "query" | "can_check">>;

export interface ViewStatus {
  status: Status;
  progress: number;
  message: string;
}

/** What a host lets the view ask for. */
export interface Callbacks {
  /** A control came to rest: keep these values. */
  commit(changed: Commit): void;
  pickQuery(index: number): void;
  requestStrip(question: StripQuestion): void;
  /** A larger picture of a training example. */
  requestDetail(index: number): void;
  /** Retrain without these, and compare. */
  check(indices: number[]): void;
  cancel(): void;
  cancelChecks(): void;
  resume(): void;
  /** Whether there is a kernel to ask: for other labels, tags, checks. */
  readonly live: boolean;
}
