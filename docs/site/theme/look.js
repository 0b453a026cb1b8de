// What is wider than the window, a table or code, can be scrolled with the keyboard too.
const reach = () => {
  for (const wide of document.querySelectorAll(".md-typeset__scrollwrap, pre > code, .output")) {
    if (wide.scrollWidth > wide.clientWidth) wide.setAttribute("tabindex", "0")
    else wide.removeAttribute("tabindex")
  }
}
addEventListener("resize", reach)
addEventListener("load", reach)
