"""One small bundle, built once, for every test that only looks at it."""

import pytest

from edgeops_testkit.recipes import Builder, SmallBuild, small_recipe


@pytest.fixture(scope="session")
def small_build(tmp_path_factory: pytest.TempPathFactory) -> SmallBuild:
    folder = tmp_path_factory.mktemp("builder")
    builder = Builder.at(folder)
    recipe = small_recipe(folder / "recipe")
    return SmallBuild(builder=builder, recipe=recipe, line=builder.build(recipe))
