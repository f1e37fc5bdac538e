/** What is shown of an example: a thumbnail cut from the sheet, a picture, text or a table row. */
import type { Media, Sprite } from "../explanation";
import { el, hush } from "./dom";
import { differsFrom, sharedSpans } from "./marks";

export interface Sheet {
  /** Paint one cell; at once if the sheet is decoded, else when it is. */
  paint(canvas: HTMLCanvasElement, cell: number): void;
  readonly width: number;
  readonly height: number;
  dispose(): void;
}

const LARGEST = 2048; // a damaged size must not ask for gigabytes of canvas

export function loadSheet(sprite: Sprite | null): Sheet {
  const width = Math.min(sprite?.width ?? 1, LARGEST);
  const height = Math.min(sprite?.height ?? 1, LARGEST);
  const columns = sprite?.columns ?? 1;
  let waiting: (() => void)[] = [];
  let source: CanvasImageSource | null = null;
  let disposed = false;

  const image = new Image();
  image.onload = () => {
    if (disposed) return;
    source = image;
    for (const paint of waiting) paint();
    waiting = [];
  };
  if (sprite) image.src = `data:${sprite.mime};base64,${sprite.data}`;

  return {
    width,
    height,
    paint(canvas, cell) {
      if (!source) {
        waiting.push(() => this.paint(canvas, cell));
        return;
      }
      const x = (cell % columns) * width;
      const y = Math.floor(cell / columns) * height;
      canvas.getContext("2d")?.drawImage(source, x, y, width, height, 0, 0, width, height);
    },
    dispose() {
      disposed = true;
      waiting = [];
      source = null;
      image.onload = null;
      image.removeAttribute("src");
    },
  };
}

export interface Drawing {
  /** How much of a table row is shown. */
  rows?: number;
  /** What to compare with: texts show what they share with it, rows where they differ. */
  against?: Media | null;
}

/** A node for one example. `alt` says what it is. */
export function drawMedia(
  media: Media,
  sheet: Sheet,
  alt: string,
  { rows = 6, against = null }: Drawing = {},
): HTMLElement {
  switch (media.kind) {
    case "cell": {
      const canvas = el("canvas", {
        class: "rw-picture",
        attrs: { role: "img", "aria-label": alt },
      });
      canvas.width = sheet.width;
      canvas.height = sheet.height;
      sheet.paint(canvas, media.cell);
      return canvas;
    }
    case "picture": {
      const image = el("img", { class: "rw-picture", attrs: { alt } });
      image.width = Math.min(media.width, LARGEST);
      image.height = Math.min(media.height, LARGEST);
      image.src = `data:${media.mime};base64,${media.data}`;
      return image;
    }
    case "text":
      return against?.kind === "text"
        ? el(
            "p",
            { class: "rw-text", title: media.text },
            ...sharedSpans(media.text, against.text).map(({ text, shared }) =>
              shared ? el("mark", { text }) : document.createTextNode(text),
            ),
          )
        : el("p", { class: "rw-text", text: media.text, title: media.text });
    case "row": {
      const table = el("dl", { class: "rw-row" });
      media.columns.slice(0, rows).forEach((column, at) => {
        const value = media.values[at] ?? "";
        const theirs = differsFrom(against, column, value);
        const title = theirs === null ? value : `${value}; the query has ${theirs}`;
        table.append(
          el(
            "div",
            { class: theirs === null ? "" : "rw-differs" },
            el("dt", { text: column, title: column }),
            el("dd", { text: value, title }, theirs === null ? null : hush(" differs")),
          ),
        );
      });
      const hidden = Math.max(0, media.columns.length - rows) + media.more;
      if (hidden > 0) {
        const all = media.columns.map((column, at) => `${column}: ${media.values[at]}`).join("\n");
        table.append(
          el(
            "div",
            { title: all },
            el("dt", { text: `+ ${hidden} more` }),
            el("dd", { text: "…" }),
          ),
        );
      }
      return table;
    }
  }
}

export const isPicture = (media: Media): boolean =>
  media.kind === "cell" || media.kind === "picture";
