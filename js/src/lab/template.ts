/** The page that an explanation is exported into; a chunk of its own, loaded by the first export. */
import template from "virtual:page";

export default template;
