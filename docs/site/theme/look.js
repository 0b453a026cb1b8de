// A table that is wider than the window can be scrolled with the keyboard too.
const reach = () => {
  for (const table of document.querySelectorAll(".md-typeset__scrollwrap")) {
    if (table.scrollWidth > table.clientWidth) table.setAttribute("tabindex", "0")
    else table.removeAttribute("tabindex")
  }
}
addEventListener("resize", reach)
addEventListener("load", reach)
