/** What the build hands over as text. */
declare module "*.css" {
  const text: string;
  export default text;
}
declare module "*.svg" {
  const text: string;
  export default text;
}
/** The page's template with script and style inside. */
declare module "virtual:page" {
  const text: string;
  export default text;
}
