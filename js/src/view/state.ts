import type { Method, Sign } from "../explanation";
import type { Status, StripQuestion } from "../messages";

/** Where the controls stand. */
export interface ViewState {
  method: Method;
  k: number;
  damping: number;
  sign: Sign;
  labels: string[];
  /** The test example asked for; it runs ahead of the document while one is prepared. */
  query: number | null;
}

export type Commit = Partial<Omit<ViewState, "query">>;

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
  /** Whether labels that have no panel yet can be prepared. */
  readonly canPrepare: boolean;
}
