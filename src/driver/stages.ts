/** Single stages of the way, for commands that need one alone. */
export { lowerToGraphs } from '../lower/model-to-graph.ts';
