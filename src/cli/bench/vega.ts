/** Pictures as SVG by vega-lite, which is loaded only where a picture is wanted: a package of npm that moec can do without. */
import { isObject } from '../../base/is-object.ts';
import { importOptional } from '../../runtime/node/import-optional.ts';
import { CommandError, EXIT } from '../io.ts';

/** A vega-lite specification: its own vocabulary, as plain data. */
export type PictureSpec = Readonly<Record<string, unknown>>;

export interface Vega {
  svg(spec: PictureSpec): Promise<string>;
}

interface View {
  toSVG(): Promise<string>;
  finalize(): unknown;
}

type ViewConstructor = new (runtime: unknown, options: { renderer: 'none' }) => View;

type Callable = (...args: readonly unknown[]) => unknown;
const isCallable = (value: unknown): value is Callable => typeof value === 'function';
const isView = (value: unknown): value is ViewConstructor => typeof value === 'function';

/** Of the size of a sans-serif font: how wide a character is on average, those of numbers and lower-case text being close to it. */
const CHARACTER = 0.57;
const BOLD = 1.07;

interface TextItem {
  readonly fontSize?: number;
  readonly fontWeight?: number | string;
}

/** Without a canvas vega takes text for wider than it is, and leaves room that nothing fills. */
function textWidth(item: TextItem, text: unknown): number {
  const weight = item.fontWeight === 'bold' || Number(item.fontWeight) >= 600 ? BOLD : 1;
  return CHARACTER * weight * (item.fontSize ?? 11) * String(text ?? '').length;
}

const missing = (): CommandError =>
  new CommandError(EXIT.usage, 'pictures are drawn by the packages vega and vega-lite, which cannot be loaded', { fix: 'npm install vega vega-lite, or leave --plots out' });

/** @throws CommandError where the packages are not installed */
export async function loadVega(): Promise<Vega> {
  const [vega, lite] = await Promise.all([importOptional('vega', () => import('vega')), importOptional('vega-lite', () => import('vega-lite'))]).catch(() => {
    throw missing();
  });
  if (!isObject(vega) || !isObject(lite) || !isCallable(vega['parse']) || !isView(vega['View']) || !isCallable(lite['compile'])) throw missing();
  if (isObject(vega['textMetrics'])) Object.assign(vega['textMetrics'], { width: textWidth });
  const { parse, View: Drawn } = { parse: vega['parse'], View: vega['View'] };
  const { compile } = { compile: lite['compile'] };
  return {
    async svg(spec) {
      const compiled = compile(spec);
      const view = new Drawn(parse(isObject(compiled) ? compiled['spec'] : undefined), { renderer: 'none' });
      try {
        return await view.toSVG();
      } finally {
        view.finalize();
      }
    },
  };
}
