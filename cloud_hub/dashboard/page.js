// What CSS alone cannot do on these pages: explanations that stay within the window, and a keyboard focus
// that survives when live markup is replaced under it.
(() => {
  const box = document.createElement("div");
  box.id = "eo-tooltip";
  box.setAttribute("role", "tooltip");
  box.hidden = true;
  let owner = null; // the element whose explanation is shown
  let pointer = null; // where the mouse is
  let focus = null; // the last element with focus inside live markup, and where it was

  function show(element) {
    hide();
    owner = element;
    box.textContent = element.dataset.tip;
    box.hidden = false;
    element.setAttribute("aria-describedby", box.id);
    place();
  }

  function place() {
    const at = owner.getBoundingClientRect();
    if (at.bottom < 0 || at.top > window.innerHeight) {
      hide();
      return;
    }
    const left = Math.min(at.left, document.documentElement.clientWidth - box.offsetWidth - 12);
    const below = at.bottom + 6;
    const above = at.top - box.offsetHeight - 6;
    const fits = below + box.offsetHeight <= window.innerHeight - 8 || above < 8;
    box.style.left = `${Math.max(12, left)}px`;
    box.style.top = `${fits ? below : above}px`;
  }

  function hide() {
    if (owner) owner.removeAttribute("aria-describedby");
    owner = null;
    box.hidden = true;
  }

  const explained = (node) => (node instanceof Element ? node.closest("[data-tip]") : null);
  const focusable = "a[href], button, input, [tabindex]";

  document.addEventListener("mouseover", (event) => {
    pointer = [event.clientX, event.clientY];
    const element = explained(event.target);
    if (element) show(element);
    else if (event.target !== box && owner !== document.activeElement) hide();
  });
  document.addEventListener("focusin", (event) => {
    const element = explained(event.target);
    if (element && element.matches(":focus-visible, :active")) show(element);
    else hide();
    const root = event.target.closest("[data-live]");
    focus = root && { element: event.target, root, index: [...root.querySelectorAll(focusable)].indexOf(event.target) };
  });
  document.addEventListener("focusout", (event) => {
    if (owner === event.target) hide();
  });
  // Whoever presses beside everything wants no focus. That its element is taken away is nobody's will.
  document.addEventListener("pointerdown", () => (focus = null), { capture: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
  window.addEventListener("scroll", () => owner && place(), { passive: true, capture: true });

  function mend() {
    if (focus && !focus.element.isConnected && document.activeElement === document.body) {
      const all = [...focus.root.querySelectorAll(focusable)];
      const text = focus.element.textContent;
      const twin = all.find((each) => each.textContent === text && each.tagName === focus.element.tagName);
      (twin ?? all[focus.index])?.focus({ preventScroll: true });
    }
    if (owner && !owner.isConnected) {
      hide();
      const element = pointer && explained(document.elementFromPoint(...pointer));
      if (element) show(element);
    } else if (owner && owner.dataset.tip !== box.textContent) {
      show(owner);
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.body.append(box);
    new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
  });
})();
