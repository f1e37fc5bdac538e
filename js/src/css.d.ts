/** esbuild reads a style sheet as text where a host has to bring it along. */
declare module "*.css" {
  const text: string;
  export default text;
}
