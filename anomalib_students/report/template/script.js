"use strict";
{
  const find = (id) => document.getElementById(id);
  const list = find("cards");
  const cards = [...list.children];
  const orders = {
    highest: (a, b) => b.dataset.score - a.dataset.score,
    lowest: (a, b) => a.dataset.score - b.dataset.score,
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, "en", { numeric: true }),
  };

  const update = () => {
    const outcome = find("outcome").value;
    const kind = find("kind").value;
    const name = find("name").value.toLowerCase();
    for (const card of cards) {
      card.hidden = (outcome && card.dataset.outcome !== outcome)
        || (kind && card.dataset.kind !== kind)
        || !card.dataset.name.toLowerCase().includes(name);
    }
    const order = orders[find("order").value];
    list.append(...(order ? [...cards].sort(order) : cards));
    list.classList.toggle("without-outlines", find("outlines")?.checked === false);
    find("shown").textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length}`;
  };

  const controls = find("controls");
  controls.hidden = false;
  controls.addEventListener("input", update);
  list.addEventListener("click", (event) => event.target.closest(".pictures")?.parentElement.classList.toggle("large"));
  controls.addEventListener("submit", (event) => event.preventDefault());
  update();
}
