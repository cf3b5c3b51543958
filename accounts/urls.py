"""Paths of accounts."""

from django.urls import path

from accounts import api

urlpatterns = [
    path("api/auth/login", api.LoginView.as_view(), name="auth-login"),
    path("api/auth/logout", api.LogoutView.as_view(), name="auth-logout"),
    path("api/auth/me", api.MeView.as_view(), name="auth-me"),
    path("api/users", api.UsersView.as_view(), name="users"),
    path("api/tokens", api.TokensView.as_view(), name="tokens"),
    path("api/tokens/<str:public_id>", api.TokenView.as_view(), name="token"),
]
